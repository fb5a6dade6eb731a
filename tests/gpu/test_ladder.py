"""The precision ladder: what each precision costs and what it changes, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from gpu.drive import array, crowd, generate, psnr, seconds_of_a_step, worst
from gpu.figures import Figures
from gpu.site import Site, asked, cast, load_or_skip, memory, planned, running
from imagegen_server.core import Pixels, Precision, Stage
from imagegen_server.models.pair import LoadedPair

LEAST_PSNR = 20.0
"""dB. Random weights make noise-like pictures, in which every rounding shows; trained ones come out closer. What fp8
makes of them is recorded and not judged: nobody gets it without asking for it."""

LEAST_PSNR_TRAINED = 25.0
"""dB, the mean over the embedded pair's prompts."""

PROMPTS = (
    "a red circle on a blue background",
    "a small green square left of a large yellow triangle",
    "an orange star",
)


@pytest.fixture(autouse=True)
def same_noise() -> Iterator[None]:
    """Draws all noise in fp32 and rounds it, so that what differs is the arithmetic.

    diffusers draws it in the precision of the model, for which some versions of torch have another stream.
    """
    with _noise_in_fp32():
        yield


@contextmanager
def _noise_in_fp32() -> Iterator[None]:
    import torch
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as base
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img as refiner

    draw: Any = vars(base)["randn_tensor"]

    def rounded(*arguments: Any, dtype: Any = None, **named: Any) -> Any:
        return draw(*arguments, dtype=torch.float32, **named).to(dtype)

    with pytest.MonkeyPatch.context() as patched:
        for module in (base, refiner):
            patched.setattr(module, "randn_tensor", rounded)
        yield


def test_what_each_precision_costs_and_changes(site: Site, measured: Figures) -> None:
    """Time, memory against the plan, and pixels against fp32."""
    full = load_or_skip(site, Precision.FP32)
    reference: Pixels | None = None
    for precision in site.ladder():
        before = memory(site)
        pair = cast(full, precision)
        own = before if pair.dtype is not full.dtype else 0
        plan = planned(site, precision)
        with running(pair) as runner:
            generate(site, runner, asked(site, num_inference_steps=2))  # warm-up
            runner.reset_peak_memory()
            finished = generate(site, runner, _short(site))
            rows = min(runner.describe().profile.row_budget, site.rows[-1])
            times = {}
            for stage in (Stage.BASE, Stage.REFINER):
                with crowd(site, runner, rows=2, side=site.native, stage=stage) as jobs:
                    times[f"{stage}_step_ms"] = seconds_of_a_step(site, runner, stage, jobs) * 1e3
                with crowd(site, runner, rows=rows, side=site.native, stage=stage) as jobs:
                    seconds_of_a_step(site, runner, stage, jobs)
            peak = runner.peak_memory_bytes()
        reference = reference or finished.pixels
        gigabytes = "not measured" if peak is None else (peak - own) / 1e9
        measured.add(
            f"precision ladder, {site.native}x{site.native}, random weights",
            precision=str(precision),
            **times,
            vae_ms=finished.seconds[Stage.VAE_DECODE] * 1e3,
            peak_gb=gigabytes,
            predicted_gb=plan.predicted_peak_bytes / 1e9,
            psnr_db=psnr(reference, finished.pixels),
            worst_level=worst(reference, finished.pixels),
        )
        assert array(finished.pixels).std() > 1, "a flat image proves nothing"
        assert precision is Precision.FP8 or psnr(reference, finished.pixels) >= LEAST_PSNR
        if peak is not None and precision is Precision.FP8:
            assert peak - own <= plan.predicted_peak_bytes, "the plan does not count on smaller weights"
        elif peak is not None:
            assert abs(plan.predicted_peak_bytes - (peak - own)) <= 0.1 * (peak - own)
        del pair, runner


def _short(site: Site) -> Any:
    request = asked(site, num_inference_steps=min(8, site.steps[0]))
    return replace(request, refiner=replace(request.refiner, num_inference_steps=min(4, site.steps[1])))


def test_a_trained_pair_draws_the_same_pictures_in_every_precision(site: Site, measured: Figures) -> None:
    """The embedded pair, whose pictures mean something: pixels of each precision against fp32 on the same device."""
    reference: list[Pixels] = []
    prompts = PROMPTS if site.device == "cuda" else PROMPTS[:1]
    for precision in site.ladder():
        with running(_shapes(site, precision)) as runner:
            pictures = [generate(site, runner, _asked_of_shapes(site, prompt)).pixels for prompt in prompts]
        reference = reference or pictures
        pairs = list(zip(reference, pictures, strict=True))
        decibels = [psnr(*both) for both in pairs]
        measured.add(
            "precision ladder, the embedded pair, 128x128",
            precision=str(precision),
            mean_psnr_db=sum(decibels) / len(decibels),
            least_psnr_db=min(decibels),
            worst_level=max(worst(*both) for both in pairs),
        )
        assert precision is Precision.FP8 or sum(decibels) / len(decibels) >= LEAST_PSNR_TRAINED


def _shapes(site: Site, precision: Precision) -> LoadedPair:
    from imagegen_server import shapes
    from imagegen_server.models.loading import LoadOptions, load_pair
    from imagegen_server.models.profiles import SHAPES, bare_profile

    options = LoadOptions(device=site.device, precision=precision.value)
    return load_pair(bare_profile(SHAPES), base=shapes.BASE, refiner=shapes.REFINER, options=options)


def _asked_of_shapes(site: Site, prompt: str) -> Any:
    from support.pairs import image_to_image, request

    steps, refiner_steps = min(20, 2 * site.steps[0]), min(10, site.steps[1])
    refiner = image_to_image(num_inference_steps=refiner_steps, strength=0.1, guidance_scale=2.5)
    return request(prompt=prompt, width=128, height=128, num_inference_steps=steps, guidance_scale=2.5, refiner=refiner)
