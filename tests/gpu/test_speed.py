"""How fast the device is, part by part. Nothing is gated on a time: rates are held against the device's own roof, and
whole generations against diffusers' own pipelines in the same run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gpu.arithmetic import denoising_flop, roof, row_flop
from gpu.drive import crowd, generate, seconds_of_a_step
from gpu.figures import Figures
from gpu.site import Site, asked, load, running, synchronize
from imagegen_server.core import STEP_STAGES, Precision, Stage
from imagegen_server.errors import OutOfDeviceMemory
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.sdxl_runner import SDXLRunner

MLPERF_STEPS = 20
MLPERF_ROWS = 16


@pytest.fixture(scope="module")
def pair(site: Site) -> LoadedPair:
    """The pair in half precision."""
    return load(site, site.half)


@pytest.fixture(scope="module")
def runner(pair: LoadedPair) -> Iterator[SDXLRunner]:
    """A runner as a server without a tuning has it."""
    with running(pair) as made:
        yield made


def test_the_roof(site: Site, measured: Figures) -> None:
    """Large matrix products in each precision; a GPU's half precision is faster than its fp32."""
    roofs = {precision: roof(site, precision) for precision in site.precisions}
    for precision, rate in roofs.items():
        measured.add("roof", precision=str(precision), matrix=site.matmul, tflops=rate / 1e12)
    assert site.device == "cpu" or roofs[site.half] > roofs[Precision.FP32]


def test_a_generation_against_diffusers(site: Site, measured: Figures, pair: LoadedPair, runner: SDXLRunner) -> None:
    """One image of the usual steps: diffusers' pipelines and the runner in turn, A B B A, on the same weights."""
    request = asked(site)
    ours: list[dict[Stage, float]] = []
    stock: list[float] = []
    _stock(site, pair, 2, 1)
    generate(site, runner, asked(site, num_inference_steps=2))
    for arm in "ABBA":
        if arm == "A":
            stock.append(_stock(site, pair, *site.steps))
        else:
            ours.append(generate(site, runner, request).seconds)
    best = min(ours, key=lambda seconds: sum(seconds.values()))
    total, plain = sum(best.values()), min(stock)
    steps, refiner_steps = site.steps
    measured.add(
        f"one {site.native}x{site.native} image, {steps} + {refiner_steps} steps, {site.half}, seconds",
        **{str(stage): duration for stage, duration in best.items()},
        total=total,
        diffusers=plain,
        ratio=total / plain,
        tflops=denoising_flop(site) / (best[Stage.BASE] + best[Stage.REFINER]) / 1e12,
    )
    assert set(best) == {Stage.TEXT_ENCODE, *STEP_STAGES, Stage.VAE_DECODE}


def _stock(site: Site, pair: LoadedPair, steps: int, refiner_steps: int) -> float:
    """Returns the seconds of diffusers' own base and refiner for one image."""
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    common: dict[str, Any] = {"prompt": "a red circle", "guidance_scale": 8.0, "generator": generator}
    side = site.native
    synchronize(site)
    began = time.perf_counter()
    latents = pair.base(**common, num_inference_steps=steps, height=side, width=side, output_type="latent").images
    pair.refiner(**common, image=latents, num_inference_steps=2 * refiner_steps, strength=0.5, output_type="np")
    synchronize(site)
    return time.perf_counter() - began


@pytest.mark.parametrize("stage", STEP_STAGES)
def test_step_times_of_rows_and_sizes(site: Site, measured: Figures, runner: SDXLRunner, stage: Stage) -> None:
    """Every batch that fits advances, and no faster than the device can multiply: else the counting is wrong."""
    best = roof(site, site.half)
    rates = []
    for side in site.sides:
        for rows in site.rows:
            try:
                with crowd(site, runner, rows=rows, side=side, stage=stage) as jobs:
                    seconds = seconds_of_a_step(site, runner, stage, jobs)
            except OutOfDeviceMemory:
                measured.add(f"steps of the {stage}", side=side, rows=rows, ms="no memory", tflops="", of_roof="")
                continue
            rates.append(rows * row_flop(site, stage, side) / seconds)
            measured.add(
                f"steps of the {stage}",
                side=side,
                rows=rows,
                ms=seconds * 1e3,
                tflops=rates[-1] / 1e12,
                of_roof=rates[-1] / best,
            )
    assert rates
    if site.device != "cpu":  # a CPU emulates bf16 kernel by kernel: a slow product is no bound for a convolution
        assert max(rates) <= 1.1 * best


def test_the_mlperf_shape(site: Site, measured: Figures, runner: SDXLRunner) -> None:
    """Offline, base only, 20 Euler steps at guidance 8: a batch through its steps, then each image decoded."""
    steps, rows = min(MLPERF_STEPS, site.steps[0]), min(MLPERF_ROWS, site.rows[-1])
    with crowd(site, runner, rows=rows, side=site.native, stage=Stage.BASE, steps=steps, refined=False) as jobs:
        synchronize(site)
        began = time.perf_counter()
        for _ in range(steps):
            runner.step(Stage.BASE, jobs)
        synchronize(site)
        denoised = time.perf_counter() - began
        for job in jobs:
            assert runner.step(Stage.VAE_DECODE, [job])[0].pixels is not None
        seconds = time.perf_counter() - began
    measured.add(
        f"offline, base only, {steps} steps at guidance 8, {site.half}",
        images=len(jobs),
        seconds=seconds,
        images_per_second=len(jobs) / seconds,
        decode_part=1 - denoised / seconds,
    )


def test_graphs_give_the_same_bits(site: Site, runner: SDXLRunner, pair: LoadedPair) -> None:
    """An image from CUDA graphs is the one that single kernels make, and its graphs were really used."""
    from imagegen_server.models.tuning import Tuning

    request = replace(asked(site, num_inference_steps=6), width=site.sides[0], height=site.sides[0])
    request = replace(request, refiner=replace(request.refiner, num_inference_steps=3))
    graphed = generate(site, runner, request).pixels
    plain = SDXLRunner(pair, Tuning(cuda_graphs=False))
    assert generate(site, plain, request).pixels == graphed
    captured = [unet.keys() for unet in runner._unets.values() if hasattr(unet, "keys")]
    latent = site.sides[0] // 8
    assert site.device == "cpu" or all((2, latent, latent) in keys for keys in captured)
    assert site.precisions[0] is Precision.FP32
