"""How fast the device is, part by part. Nothing is gated on a time: rates are held against the device's own roof, and
whole generations against diffusers' own pipelines in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gpu import stock
from gpu.arithmetic import denoising_flop, roof, row_flop
from gpu.drive import crowd, decode_seconds, generate, offline, seconds_of_a_step, steps_with_previews
from gpu.figures import Figures
from gpu.site import Site, asked, load, running
from imagegen_server.core import STEP_STAGES, Precision, Stage
from imagegen_server.errors import OutOfDeviceMemory
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.sdxl_runner import SDXLRunner


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
    ours: list[dict[Stage, float]] = []
    theirs: list[float] = []
    stock.generation_seconds(site, pair, 2, 1)
    generate(site, runner, asked(site, num_inference_steps=2))
    for number, arm in enumerate("ABBA"):
        if arm == "A":
            theirs.append(stock.generation_seconds(site, pair, *site.steps))
        else:
            ours.append(generate(site, runner, asked(site, prompt=f"a red circle, {number}")).seconds)
    best = min(ours, key=lambda seconds: sum(seconds.values()))
    total, plain = sum(best.values()), min(theirs)
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


@pytest.mark.parametrize("stage", STEP_STAGES)
def test_step_times_of_rows_and_sizes(
    site: Site, measured: Figures, pair: LoadedPair, runner: SDXLRunner, stage: Stage
) -> None:
    """Every batch that fits advances, and no faster than the device can multiply: else the counting is wrong.

    At the native size diffusers' call of the same UNet is measured beside it.
    """
    best = roof(site, site.half)
    rates = []
    for side in site.sides:
        for rows in site.rows:
            try:
                with crowd(site, runner, rows=rows, side=side, stage=stage) as jobs:
                    seconds = seconds_of_a_step(site, runner, stage, jobs)
            except OutOfDeviceMemory:
                nothing = dict.fromkeys(("tflops", "of_roof", "diffusers_ms", "ratio"), "")
                measured.add(f"steps of the {stage}", side=side, rows=rows, ms="no memory", **nothing)
                continue
            native = side == site.native
            theirs = stock.step_seconds(site, pair, stage, rows=rows, side=side) if native else None
            rates.append(rows * row_flop(site, stage, side) / seconds)
            measured.add(
                f"steps of the {stage}",
                side=side,
                rows=rows,
                ms=seconds * 1e3,
                tflops=rates[-1] / 1e12,
                of_roof=rates[-1] / best,
                diffusers_ms="" if theirs is None else theirs * 1e3,
                ratio="" if theirs is None else seconds / theirs,
            )
    assert rates
    if site.device != "cpu":  # a CPU emulates bf16 kernel by kernel: a slow product is no bound for a convolution
        assert max(rates) <= 1.1 * best


def test_the_offline_shape(site: Site, measured: Figures, pair: LoadedPair, runner: SDXLRunner) -> None:
    """MLPerf's: base only, 20 Euler steps at guidance 8, prompts to pixels; diffusers makes the images in one call."""
    images, steps = site.offline
    offline(site, runner, images=images, steps=3, call="warm-up")  # as it is, captured, replayed
    stock.offline_seconds(site, pair, images=images, steps=1, call="warm-up")
    ours = offline(site, runner, images=images, steps=steps, call="speed")
    theirs = stock.offline_seconds(site, pair, images=images, steps=steps, call="speed")
    measured.add(
        f"offline, base only, {steps} steps at guidance 8, {site.half}",
        images=images,
        seconds=ours.seconds,
        images_per_second=images / ours.seconds,
        decode_part=1 - ours.denoised / ours.seconds,
        tflops=2 * images * steps * row_flop(site, Stage.BASE, site.native) / ours.denoised / 1e12,
        diffusers_images_per_second=images / theirs,
        ratio=ours.seconds / theirs,
    )
    assert 0 < ours.denoised < ours.seconds


def test_decoding(site: Site, measured: Figures, pair: LoadedPair, runner: SDXLRunner) -> None:
    """One latent to pixels on the host: whole, checked for NaN and rounded on the device."""
    theirs = stock.decode_seconds(site, pair)
    ours = decode_seconds(site, runner)
    measured.add(
        f"decoding {site.native}x{site.native}, {site.half}",
        ms=ours * 1e3,
        diffusers_ms=theirs * 1e3,
        ratio=ours / theirs,
    )
    assert ours > 0


def test_a_step_with_a_preview(site: Site, measured: Figures, runner: SDXLRunner) -> None:
    """The copy to the host is waited for by whoever draws: a step with a preview takes the device thread no longer.

    A preview that is drawn when all steps are over shows its own step, like one that is drawn at once.
    """
    late = steps_with_previews(site, runner, at_once=False)
    early = steps_with_previews(site, runner, at_once=True)
    assert late.drawn == early.drawn
    assert len(set(late.drawn)) == len(late.drawn) > 1
    measured.add(
        f"a step with a preview, {site.native}x{site.native}, {site.half}",
        ms=late.seconds[True] * 1e3,
        without_ms=late.seconds[False] * 1e3,
        ratio=late.seconds[True] / late.seconds[False],
    )


def test_graphs_give_the_same_bits(site: Site, runner: SDXLRunner, pair: LoadedPair) -> None:
    """An image from CUDA graphs is the one that single kernels make, and its graphs were really used.

    So is one from graphs that were captured again after all had been freed.
    """
    from imagegen_server.models.evaluation.graphs import Graphed
    from imagegen_server.models.evaluation.tuning import Tuning

    assert site.precisions[0] is Precision.FP32
    request = replace(asked(site, num_inference_steps=6), width=site.sides[0], height=site.sides[0])
    request = replace(request, refiner=replace(request.refiner, num_inference_steps=3))
    plain = generate(site, SDXLRunner(pair, Tuning(cuda_graphs=False)), request).pixels
    graphed = [unet for unet in runner._unets.values() if isinstance(unet, Graphed)]
    assert len(graphed) == (0 if site.device == "cpu" else 2)
    latent = site.sides[0] // 8
    for _ in range(2):
        assert generate(site, runner, request).pixels == plain
        assert all((2, latent, latent) in unet.captured_keys() for unet in graphed)
        for unet in graphed:
            unet.clear()
    assert runner.adaptations() == []
