"""The runner's own promises: what fails alone, what is kept, what is freed, what is reported."""

from __future__ import annotations

import dataclasses
import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from imagegen_server import core
from imagegen_server.errors import StageError, StartupError
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.sdxl_runner import SDXLRunner
from imagegen_server.models.stages.begin import begin_base_stage
from imagegen_server.models.stages.schedulers import available_schedulers
from support.denoising import advance, decode, encode, finish_base, image_of, jobs_of, pixels_of, started, steps_of
from support.pairs import as_loaded, ensemble, image_to_image, load_stock, request

BASE, REFINER, DECODE = core.Stage.BASE, core.Stage.REFINER, core.Stage.VAE_DECODE
LONG = "a red circle above a blue square and " * 14


@pytest.fixture(scope="module")
def pair(shapes_directory: Path) -> LoadedPair:
    return as_loaded(load_stock(shapes_directory))


@pytest.fixture
def runner(pair: LoadedPair) -> SDXLRunner:
    return SDXLRunner(pair)


def test_describe_reports_the_pair(runner: SDXLRunner, pair: LoadedPair) -> None:
    """What is reported is what was loaded."""
    described = runner.describe()
    assert described.profile is pair.profile
    assert described.memory_plan is pair.memory_plan
    assert described.refiner_loaded
    assert described.packages["torch"] == torch.__version__


def test_the_plan_is_what_is_executed(runner: SDXLRunner) -> None:
    """After the planned evaluations of a stage its latent is final, and one evaluation more is refused."""
    (job,) = started(runner, request(scheduler="HeunDiscreteScheduler", refiner=image_to_image(num_inference_steps=3)))
    for stage in (BASE, REFINER):
        planned = runner.plan(job.request).stage(stage)
        for _ in range(planned.evaluations - 1):
            advance(runner, stage, [job])
        assert stage not in job.state.final
        advance(runner, stage, [job])
        assert stage in job.state.final
        (extra,) = runner.step(stage, [job])
        assert isinstance(extra.failure, StageError)


def test_a_scheduler_that_draws_its_own_noise_draws_the_images(pair: LoadedPair) -> None:
    """DPMSolverSDEScheduler's seed, which diffusers draws anew for each call; one that is configured stays."""
    for configured, expected in ((None, 7), (11, 11)):
        asked = request(seed=7)
        (job,) = started(SDXLRunner(pair), asked)
        scheduler = EulerDiscreteScheduler.from_config(pair.base.scheduler.config)
        scheduler.set_timesteps(asked.num_inference_steps)
        scheduler.noise_sampler_seed = configured
        begin_base_stage(pair, scheduler, asked, job.state)
        assert scheduler.noise_sampler_seed == expected


def test_a_missing_refiner_leaves_the_base_whole(shapes_directory: Path) -> None:
    """Without a refiner an ensemble request runs the base's whole schedule, and its image is decoded."""
    alone = SDXLRunner(as_loaded(load_stock(shapes_directory), with_refiner=False))
    asked = request(num_inference_steps=6, refiner=ensemble(0.5))
    (with_refiner,) = pixels_of(alone, jobs_of(asked))
    (without,) = pixels_of(alone, jobs_of(dataclasses.replace(asked, refiner=None, use_refinement=False)))
    assert not alone.describe().refiner_loaded
    assert np.array_equal(with_refiner, without)


def test_images_of_a_generation_differ_by_seed_only(runner: SDXLRunner) -> None:
    """Image i of a request is image 0 of the request with seed + i."""
    images = pixels_of(runner, jobs_of(request(num_images=3, seed=100)))
    (single,) = pixels_of(runner, jobs_of(request(seed=102)))
    assert np.array_equal(images[2], single)
    assert not np.array_equal(images[0], images[1])


def test_a_preview_that_is_drawn_late_is_the_same(pair: LoadedPair) -> None:
    """No scheduler and no later step writes to what it is drawn from, alone or in company, guided or not."""
    runner = SDXLRunner(pair)
    runner.prepare()
    pictures: list[tuple[str, Any, core.Pixels]] = []
    for scheduler in available_schedulers(pair.base.scheduler.config):
        asked = request(scheduler=scheduler, num_inference_steps=4, refiner=None)
        jobs = started(runner, asked, dataclasses.replace(asked, guidance_scale=1.0))
        for stage in steps_of(runner, jobs[0]):
            for job in jobs:
                job.preview_due = True
            for result in runner.step(stage, jobs):
                assert result.preview is not None
                pictures.append((scheduler, result.preview, result.preview()))
    assert len({picture.data for _, _, picture in pictures}) > len(pictures) / 2
    assert {scheduler for scheduler, preview, picture in pictures if preview() != picture} == set()


def test_a_preview_comes_when_it_is_due(runner: SDXLRunner) -> None:
    """And at no later step."""
    (job,) = started(runner, request(refiner=None))
    shown = []
    for due in (False, True, False):
        job.preview_due = due
        (result,) = runner.step(BASE, [job])
        shown.append(result.preview is not None)
    assert shown == [False, True, False]


def test_truncations_name_every_cut(runner: SDXLRunner) -> None:
    """Each encoder's cut is reported with its stage, its field and what was removed, once for a generation."""
    asked = request(prompt=LONG, negative_prompt="a star", prompt_2="a circle", num_images=2)
    jobs = jobs_of(asked)
    first, second = runner.step(core.Stage.TEXT_ENCODE, jobs)
    cuts = {(cut.stage, cut.encoder, cut.prompt_field) for cut in first.truncations}
    assert cuts == {(BASE, "text_encoder", "prompt"), (REFINER, "text_encoder_2", "prompt")}
    (cut,) = {(cut.removed_tokens, cut.max_tokens, cut.removed_text) for cut in first.truncations}
    assert cut[:2] == (14 * 8 - 75, 77)
    assert cut[2].split() == LONG.split()[75:]
    assert second.truncations == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"negative_prompt": LONG}, {("negative_prompt", 3)}),
        ({"negative_prompt": LONG, "guidance_scale": 1.0}, {("negative_prompt", 1)}),
        ({"negative_prompt": "", "negative_prompt_2": LONG}, {("negative_prompt_2", 1)}),
        ({"negative_prompt_2": LONG}, set()),
        ({"refiner": image_to_image(prompt=LONG)}, {("refiner.prompt", 1)}),
        ({"prompt_2": LONG, "refiner": None}, {("prompt_2", 1)}),
        ({"prompt": LONG, "refiner": None}, {("prompt", 2)}),
        ({}, set()),
    ],
)
def test_truncations_cover_what_is_used(
    runner: SDXLRunner, changes: dict[str, Any], expected: set[tuple[str, int]]
) -> None:
    """A prompt that no encoder reads is not reported as cut; one that several read is reported for each."""
    (job,) = jobs_of(request(**changes))
    fields = [cut.prompt_field for cut in encode(runner, [job])]
    assert {(field, fields.count(field)) for field in fields} == expected


def test_long_prompts_stay_out_of_the_log(runner: SDXLRunner) -> None:
    """The libraries' own lines about a long prompt, which quote it, are not written; other lines are."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    libraries, listener = [logging.getLogger("diffusers"), logging.getLogger("transformers")], Listener()
    for library in libraries:
        library.addHandler(listener)
    try:
        encode(runner, jobs_of(request(prompt=LONG, negative_prompt=LONG)))
        libraries[0].getChild("pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl").warning("something else")
    finally:
        for library in libraries:
            library.removeHandler(listener)
    assert lines == ["something else"]


def test_release_frees_every_tensor(runner: SDXLRunner) -> None:
    """After release nothing of the job is reachable, at whatever point it ended and whoever was beside it."""
    jobs = started(runner, request(), request(seed=8), request(seed=9))
    advance(runner, BASE, jobs)
    finish_base(runner, started(runner, request(seed=10))[0])
    tensors = [weakref.ref(tensor) for job in jobs for tensor in (job.state.running.latents, *_conditioning(job))]
    for job in jobs:
        runner.release(job)
    gc.collect()
    assert [reference() for reference in tensors] == [None] * len(tensors)


def _conditioning(job: core.Job) -> list[torch.Tensor]:
    return [each.embeddings for each in job.state.conditioning.values()]


def test_release_of_one_keeps_the_others_running(runner: SDXLRunner) -> None:
    """A job that leaves a batch takes its rows along, and the next batch is put together anew."""
    stays, leaves = started(runner, request(refiner=None), request(seed=8, prompt="a star", refiner=None))
    advance(runner, BASE, [leaves, stays])
    runner.release(leaves)
    for _ in range(3):
        advance(runner, BASE, [stays])
    assert np.abs(decode(runner, stays).astype(int) - image_of(runner, stays).astype(int)).max() <= 1


def test_a_job_without_text_is_refused(runner: SDXLRunner) -> None:
    """Stepping a job that was not encoded, or was released, is an error of the call and not of the device."""
    (job,) = jobs_of(request())
    with pytest.raises(RuntimeError, match="text_encode comes first"):
        runner.step(BASE, [job])
    with pytest.raises(ValueError, match="not a device stage"):
        runner.step(core.Stage.SEND, [job])


def test_the_shared_pipelines_are_left_alone(runner: SDXLRunner, pair: LoadedPair) -> None:
    """Jobs with other schedulers leave the pipelines' own schedulers as they were loaded."""
    before = (pair.base.scheduler, pair.refiner.scheduler)
    pixels_of(runner, jobs_of(request(scheduler="DDIMScheduler")))
    assert (pair.base.scheduler, pair.refiner.scheduler) == before
    assert pair.base.scheduler.num_inference_steps is None


def test_every_stage_is_activated(pair: LoadedPair) -> None:
    """The pair hears of each stage before its modules are used, so that it can bring them to the device."""
    seen: list[core.Stage] = []
    runner = SDXLRunner(dataclasses.replace(pair, activate=seen.append))
    asked = request(num_inference_steps=2, refiner=image_to_image(num_inference_steps=1))
    pixels_of(runner, jobs_of(asked))
    assert set(seen[:-4]) == {core.Stage.TEXT_ENCODE}, "once for each text"
    assert seen[-4:] == [BASE, BASE, REFINER, DECODE]
    seen.clear()
    pixels_of(runner, jobs_of(asked))
    assert seen == [BASE, BASE, REFINER, DECODE], "the encoders are not brought for texts that are known"


def test_memory_is_not_measured_without_a_gpu(runner: SDXLRunner) -> None:
    """On a CPU there is no peak to report."""
    runner.reset_peak_memory()
    assert runner.peak_memory_bytes() is None


def test_a_distilled_unet_is_refused(shapes_directory: Path) -> None:
    """A UNet that takes its guidance as an input needs another loop."""
    stock = load_stock(shapes_directory)
    stock.base.unet.register_to_config(time_cond_proj_dim=256)
    with pytest.raises(StartupError, match="time_cond_proj_dim"):
        SDXLRunner(as_loaded(stock))


def test_close_frees_the_models(shapes_directory: Path) -> None:
    """After close the runner holds no model and does no work."""
    loaded = as_loaded(load_stock(shapes_directory))
    unet = weakref.ref(loaded.base.unet)
    runner = SDXLRunner(loaded)
    pixels_of(runner, jobs_of(request(num_inference_steps=1)))
    runner.close()
    del loaded
    gc.collect()
    assert unet() is None
    with pytest.raises(RuntimeError, match="closed"):
        runner.step(BASE, [])
