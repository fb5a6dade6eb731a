"""How fast the device is, part by part. Nothing is gated on a time: rates are held against the device's own roof."""

from __future__ import annotations

import pytest

from gpu.arithmetic import roof, row_flop
from gpu.drive import crowd, generate, seconds_of_a_step
from gpu.figures import Figures
from gpu.site import Site, asked, load, running
from imagegen_server.core import STEP_STAGES, Stage
from imagegen_server.errors import OutOfDeviceMemory


def test_where_the_time_of_a_generation_goes(site: Site, measured: Figures) -> None:
    """A generation of the usual steps runs through every stage in every precision."""
    for precision in site.precisions:
        with running(load(site, precision)) as runner:
            request = asked(site)
            generate(site, runner, asked(site, num_inference_steps=2))  # warm-up
            seconds = generate(site, runner, request).seconds
        steps, refiner_steps = site.steps
        work = sum(
            2 * count * row_flop(site, stage, site.native) for stage, count in zip(STEP_STAGES, site.steps, strict=True)
        )
        denoising = seconds[Stage.BASE] + seconds[Stage.REFINER]
        measured.add(
            f"stages of one {site.native}x{site.native} image, {steps} + {refiner_steps} steps, seconds",
            precision=str(precision),
            **{str(stage): duration for stage, duration in seconds.items()},
            total=sum(seconds.values()),
            tflops=work / denoising / 1e12,
        )
        assert set(seconds) == {Stage.TEXT_ENCODE, *STEP_STAGES, Stage.VAE_DECODE}


@pytest.mark.parametrize("stage", STEP_STAGES)
def test_step_times_of_rows_and_sizes(site: Site, measured: Figures, stage: Stage) -> None:
    """Every batch that fits advances, and no faster than the device can multiply: else the counting is wrong."""
    best = roof(site, site.half)
    rates = []
    with running(load(site, site.half)) as runner:
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
    measured.add("roof", precision=str(site.half), matrix=site.matmul, tflops=best / 1e12)
    assert rates
    if site.device != "cpu":  # a CPU emulates bf16 kernel by kernel: a slow product is no bound for a convolution
        assert max(rates) <= 1.1 * best
