"""`imagegen-server tune` on the device: what it finds, what it gains, and that a server starts with it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpu import stock
from gpu.arithmetic import denoising_flop, row_flop
from gpu.drive import Finished, crowd, decode_seconds, generate, offline, psnr, seconds_of_a_step
from gpu.figures import Figures
from gpu.site import Site, asked, load, load_or_skip, prepared, running, whole
from imagegen_server.core import Precision, Stage
from imagegen_server.models.evaluation.tune import tune
from imagegen_server.models.evaluation.tuning import Tuning
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.sdxl_runner import SDXLRunner


@dataclass(frozen=True, slots=True)
class Plain:
    """What was measured of the pair before it was tuned."""

    ours: Finished
    """One image, without a tuning."""
    image: float
    """Seconds of diffusers' pipelines for one image."""
    offline: float
    """Seconds of diffusers' base for the offline shape."""
    decode: float
    """Seconds of diffusers' decode."""
    steps: dict[int, float]
    """Seconds of the base's UNet at the native size as diffusers calls it, by rows."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A pair in half precision with what was found for it."""

    pair: LoadedPair
    plain: Plain
    tuning: Tuning
    cache: Path

    def runner(self) -> SDXLRunner:
        """Returns a runner from the file's settings alone, as a server makes it."""
        return prepared(self.pair, self.tuning, self.cache)


@pytest.fixture(scope="module")
def tuned(site: Site, measured: Figures, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Measures a pair as it is, then tunes it; what that tells is in the figures."""
    pair, cache = load(site, site.half), tmp_path_factory.mktemp("cache")
    plain = _plain(site, pair)
    began = time.monotonic()

    def say(line: str) -> None:
        measured.add("tuning", after_s=round(time.monotonic() - began, 1), told=line)

    tuning, figures = tune(pair, cache=cache, say=say, whole=whole())
    assert tuning.rows
    assert figures
    return Tuned(pair, plain, tuning, cache)


def _plain(site: Site, pair: LoadedPair) -> Plain:
    images, steps = site.offline
    runner = prepared(pair)
    generate(site, runner, asked(site, num_inference_steps=3, prompt="warm-up"))
    stock.generation_seconds(site, pair, 2, 1)
    stock.offline_seconds(site, pair, images=images, steps=1, call="warm-up")
    return Plain(
        ours=generate(site, runner, asked(site)),
        image=stock.generation_seconds(site, pair, *site.steps),
        offline=stock.offline_seconds(site, pair, images=images, steps=steps, call="tuned"),
        decode=stock.decode_seconds(site, pair),
        steps={rows: stock.step_seconds(site, pair, Stage.BASE, rows=rows, side=site.native) for rows in site.rows},
    )


def test_tuning_pays_for_a_whole_generation(site: Site, measured: Figures, tuned: Tuned) -> None:
    """The tuned runner makes the plain one's picture, but for rounding; its times beside diffusers'."""
    found, plain, runner = tuned.tuning, tuned.plain, tuned.runner()
    assert runner.adaptations() == []
    generate(site, runner, asked(site, num_inference_steps=3, prompt="warm-up"))
    after = generate(site, runner, asked(site))
    seconds = sum(after.seconds.values())
    decoding = decode_seconds(site, runner)
    measured.add(
        f"tuned, one image of {site.steps[0]} + {site.steps[1]} steps, {site.half}",
        compile=found.compile,
        channels_last=found.channels_last,
        graphs=found.cuda_graphs,
        compile_vae=found.compile_vae,
        knees=" ".join(f"{height}x{width}:{rows}" for (height, width), rows in found.rows.items()),
        tuned_s=seconds,
        untuned_s=sum(plain.ours.seconds.values()),
        diffusers_s=plain.image,
        of_diffusers=seconds / plain.image,
        tflops=denoising_flop(site) / (after.seconds[Stage.BASE] + after.seconds[Stage.REFINER]) / 1e12,
        decode_ms=decoding * 1e3,
        decode_of_diffusers=decoding / plain.decode,
        psnr_db=psnr(plain.ours.pixels, after.pixels),
    )
    _measure_batches(site, measured, runner, f"tuned, {site.half}", plain)


def test_fp8_with_what_was_found(site: Site, measured: Figures, tuned: Tuned) -> None:
    """The base's large linear layers in fp8, compiled as was best in half precision: what opting in buys."""
    if Precision.FP8 not in site.ladder():
        pytest.skip("no torchao here, or a device without fp8")
    pair = load_or_skip(site, Precision.FP8, refiner=False)
    compile_ = tuned.tuning.compile if tuned.tuning.compile != "none" else "regional"
    latent = site.native // 8
    warm = ((2, latent, latent), (2 * site.offline[0], latent, latent))
    tuning = Tuning(compile=compile_, channels_last=True, compile_vae=tuned.tuning.compile_vae, warm=warm)
    with running(pair, tuning, tuned.cache) as runner:
        assert runner.adaptations() == []
        _measure_batches(site, measured, runner, f"fp8, {compile_} compile", tuned.plain)


def _measure_batches(site: Site, measured: Figures, runner: SDXLRunner, name: str, plain: Plain) -> None:
    """Steps of the base at the native size, and the offline shape, beside diffusers' of the same run."""
    for rows in site.rows:
        with crowd(site, runner, rows=rows, side=site.native, stage=Stage.BASE) as jobs:
            seconds = seconds_of_a_step(site, runner, Stage.BASE, jobs)
        tflops = rows * row_flop(site, Stage.BASE, site.native) / seconds / 1e12
        measured.add(
            "steps of the base, tuned",
            runner=name,
            rows=rows,
            ms=seconds * 1e3,
            tflops=tflops,
            of_diffusers=seconds / plain.steps[rows],
        )
    images, steps = site.offline
    offline(site, runner, images=images, steps=3, call="warm-up")
    found = offline(site, runner, images=images, steps=steps, call="tuned")
    measured.add(
        "offline, tuned",
        runner=name,
        images=images,
        images_per_second=images / found.seconds,
        of_diffusers=found.seconds / plain.offline,
        decode_part=1 - found.denoised / found.seconds,
    )
    assert found.seconds > 0
