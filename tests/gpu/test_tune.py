"""`imagegen-server tune` on the device: what it finds, what it gains, and that a server starts with it."""

from __future__ import annotations

import time
from pathlib import Path

from gpu.arithmetic import denoising_flop
from gpu.drive import generate, psnr
from gpu.figures import Figures
from gpu.site import Site, asked, load, running
from imagegen_server.core import Stage
from imagegen_server.models.tune import tune


def test_tuning_pays_for_a_whole_generation(site: Site, measured: Figures, tmp_path: Path) -> None:
    """The tuned runner makes the plain one's picture, but for rounding, from the file's settings alone."""
    pair = load(site, site.half)
    request = asked(site)
    with running(pair) as plain:
        generate(site, plain, asked(site, num_inference_steps=3))
        before = generate(site, plain, request)
    pair = load(site, site.half)
    began = time.monotonic()

    def say(line: str) -> None:
        measured.add("tuning", after_s=round(time.monotonic() - began, 1), told=line)

    tuning, figures = tune(pair, cache=tmp_path, say=say)
    seconds = time.monotonic() - began
    with running(pair, tuning) as runner:
        runner.prepare(tmp_path)
        assert runner.adaptations() == []
        generate(site, runner, asked(site, num_inference_steps=3))
        after = generate(site, runner, request)
    totals = [sum(run.seconds.values()) for run in (before, after)]
    measured.add(
        f"tuned, one image of {site.steps[0]} + {site.steps[1]} steps, {site.half}",
        compile=tuning.compile,
        channels_last=tuning.channels_last,
        graphs=tuning.cuda_graphs,
        compile_vae=tuning.compile_vae,
        knees=" ".join(f"{height}x{width}:{rows}" for (height, width), rows in tuning.rows.items()),
        tuning_s=seconds,
        untuned_s=totals[0],
        tuned_s=totals[1],
        vae_ms=after.seconds[Stage.VAE_DECODE] * 1e3,
        tflops=denoising_flop(site) / (after.seconds[Stage.BASE] + after.seconds[Stage.REFINER]) / 1e12,
        psnr_db=psnr(before.pixels, after.pixels),
    )
    assert tuning.rows
    assert figures
