"""What the runner does when a part of it fails: through torch's own hooks, in the real models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagegen_server import core
from imagegen_server.errors import DeviceLost, NonFinite, OutOfDeviceMemory, StageError
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.relief import Relief
from imagegen_server.models.sdxl_runner import SDXLRunner
from imagegen_server.models.stages import steps
from support.denoising import advance, decode, finish_base, image_of, started, steps_of
from support.pairs import as_loaded, image_to_image, load_stock, request

BASE, REFINER, DECODE = core.Stage.BASE, core.Stage.REFINER, core.Stage.VAE_DECODE


@pytest.fixture(scope="module")
def pair(shapes_directory: Path) -> LoadedPair:
    return as_loaded(load_stock(shapes_directory))


@pytest.fixture
def runner(pair: LoadedPair) -> SDXLRunner:
    return SDXLRunner(pair)


@contextmanager
def faulty(module: torch.nn.Module, fault: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Changes what a module returns, through torch's own hooks."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        return (fault(output[0]), *output[1:]) if isinstance(output, tuple) else fault(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def out_of_memory(_: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def poisoned_row(row: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def fault(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.clone()
        rows[row] = float("nan")
        return rows

    return fault


def test_non_finite_numbers_stop_one_job_only(runner: SDXLRunner, pair: LoadedPair) -> None:
    """A poisoned row fails its own job at once; the others go on to the images they would have had."""
    good, bad, other = started(
        runner, request(refiner=None), request(seed=8, refiner=None), request(seed=9, refiner=None)
    )
    with faulty(pair.base.unet, poisoned_row(3)):
        results = runner.step(BASE, [good, bad, other])
    assert [type(result.failure) for result in results] == [type(None), NonFinite, type(None)]
    for _ in range(3):
        advance(runner, BASE, [good, other])
    for job in (good, other):
        assert np.abs(decode(runner, job).astype(int) - image_of(runner, job).astype(int)).max() <= 1


def test_a_scheduler_that_raises_stops_one_job_only(runner: SDXLRunner) -> None:
    """The failure of one job's scheduler leaves the others advanced and tells the caller no details."""
    good, bad = started(runner, request(refiner=None), request(seed=8, refiner=None, scheduler="DDIMScheduler"))
    advance(runner, BASE, [good, bad])
    bad.state.running.scheduler.num_inference_steps = None  # DDIM refuses to step then
    ok, failed = runner.step(BASE, [good, bad])
    assert ok.failure is None
    assert isinstance(failed.failure, StageError)
    assert str(failed.failure) == "base failed: ValueError"
    assert good.state.running.done == 2


def test_out_of_memory_advances_nobody(runner: SDXLRunner, pair: LoadedPair) -> None:
    """The call raises; the same jobs can then run in smaller batches, to the images they would have had."""
    jobs = started(runner, request(scheduler="KDPM2DiscreteScheduler"), request(seed=8))
    with faulty(pair.base.unet, out_of_memory), pytest.raises(OutOfDeviceMemory) as caught:
        runner.step(BASE, jobs)
    assert caught.value.__context__ is None, "a chained exception would pin the tensors of the failed step"
    assert [job.state.running.done for job in jobs] == [0, 0]
    for job in jobs:
        for stage in steps_of(runner, job):
            advance(runner, stage, [job])
        assert np.array_equal(decode(runner, job), image_of(runner, job))


def test_a_hand_off_is_done_once_even_if_its_first_evaluation_fails(runner: SDXLRunner, pair: LoadedPair) -> None:
    """The noise that was added is kept, so that the retry gives the same image."""
    (job,) = started(runner, request(refiner=image_to_image(num_inference_steps=3, strength=0.5)))
    finish_base(runner, job)
    for _ in range(2):
        with faulty(pair.refiner.unet, out_of_memory), pytest.raises(OutOfDeviceMemory):
            runner.step(REFINER, [job])
    for _ in range(3):
        advance(runner, REFINER, [job])
    assert np.array_equal(decode(runner, job), image_of(runner, job))


@pytest.mark.parametrize("fault", [out_of_memory, poisoned_row(0)])
def test_the_base_latent_outlives_the_refiner(
    runner: SDXLRunner, pair: LoadedPair, fault: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """If the refiner is given up half-way, the base's image can be decoded, exactly."""
    (job,) = started(runner, request(refiner=image_to_image(num_inference_steps=3, strength=0.5)))
    finish_base(runner, job)
    advance(runner, REFINER, [job])
    with faulty(pair.refiner.unet, fault):
        try:
            (result,) = runner.step(REFINER, [job])
        except OutOfDeviceMemory:
            pass
        else:
            assert isinstance(result.failure, NonFinite)
    job.decode_from = BASE
    assert np.array_equal(decode(runner, job), image_of(runner, job, refiner=None, use_refinement=False))
    assert job.state.running is None, "what was given up takes no memory from the decoder"


def test_a_failed_hand_off_stops_one_job_only(runner: SDXLRunner) -> None:
    """A job whose hand-off fails reports it each time; its neighbour is refined."""
    good, bad = started(runner, request(), request(seed=8))
    for job in (good, bad):
        finish_base(runner, job)
    latent, bad.state.final[BASE] = bad.state.final[BASE], torch.zeros(4)  # no latent
    for _ in range(2):
        ok, failed = runner.step(REFINER, [good, bad])
        assert ok.failure is None
        assert isinstance(failed.failure, StageError)
    bad.state.final[BASE] = latent
    (again,) = runner.step(REFINER, [bad])
    assert isinstance(again.failure, StageError), "noise may have been drawn, which would not be the same again"
    assert np.abs(decode(runner, good).astype(int) - image_of(runner, good).astype(int)).max() <= 1


def test_decoding_what_is_not_there_fails_the_job(runner: SDXLRunner) -> None:
    """A latent that is not complete cannot be decoded."""
    (job,) = started(runner, request())
    (result,) = runner.step(DECODE, [job])
    assert isinstance(result.failure, StageError)
    assert result.pixels is None


def test_non_finite_pixels_fail_the_job(runner: SDXLRunner, pair: LoadedPair) -> None:
    """A VAE that overflows gives an error, never a black image."""
    (job,) = started(runner, request(refiner=None))
    finish_base(runner, job)
    with faulty(pair.base.vae.decoder.conv_out, lambda image: image * float("inf")):
        (result,) = runner.step(DECODE, [job])
    assert isinstance(result.failure, NonFinite)
    assert result.pixels is None


@pytest.mark.parametrize("stage", [BASE, DECODE])
def test_a_lost_device_is_never_one_jobs_failure(runner: SDXLRunner, pair: LoadedPair, stage: core.Stage) -> None:
    """The call raises, so that the engine stops using the device."""

    def lost(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    (job,) = started(runner, request(refiner=None))
    module = pair.base.unet if stage is BASE else pair.base.vae.decoder.conv_out
    if stage is DECODE:
        finish_base(runner, job)
    with faulty(module, lost), pytest.raises(DeviceLost):
        runner.step(stage, [job])


def test_a_device_that_is_lost_while_memory_is_freed_is_lost(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost GPU answers every call with its error, the one that frees memory too."""

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "empty_cache", lost)
    on_gpu = dataclasses.replace(pair, device=torch.device("cuda", 0))
    job = core.Job(request(), 0)
    with pytest.raises(DeviceLost):
        Relief({}).take(on_gpu, BASE, [job], (8, 8))


def test_nothing_is_asked_of_a_device_that_is_lost(
    runner: SDXLRunner, pair: LoadedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would only answer with the same error, in other words."""

    def lost(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: unspecified launch failure")

    asked: list[str] = []
    monkeypatch.setattr(Relief, "take", lambda *_: asked.append("take"))
    (job,) = started(runner, request(refiner=None))
    with faulty(pair.base.unet, lost), pytest.raises(DeviceLost):
        runner.step(BASE, [job])
    assert asked == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [(torch.OutOfMemoryError("CUDA out of memory"), OutOfDeviceMemory), (RuntimeError("CUDA error: gone"), DeviceLost)],
)
def test_a_look_at_the_latents_that_fails_is_not_taken_for_a_step_that_did_not_happen(
    runner: SDXLRunner, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
) -> None:
    """The jobs have advanced: trying the step again would execute it twice."""
    (job,) = started(runner, request(refiner=None))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "isfinite", raising(error))
        try:
            (result,) = runner.step(BASE, [job])
            failure = result.failure
        except DeviceLost as lost:
            failure = lost
    assert type(failure) is expected


def test_a_preview_that_cannot_be_made_is_left_out(
    runner: SDXLRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its step was executed, once; a device that was lost is told all the same."""
    (job,) = started(runner, request(refiner=None))
    job.preview_due = True
    with monkeypatch.context() as patch:
        patch.setattr(steps, "Preview", raising(torch.OutOfMemoryError("CUDA out of memory")))
        (result,) = runner.step(BASE, [job])
        assert (result.failure, result.preview) == (None, None)
        assert "a preview was left out" in caplog.text
        patch.setattr(steps, "Preview", raising(RuntimeError("CUDA error: gone")))
        with pytest.raises(DeviceLost):
            runner.step(BASE, [job])


def raising(error: Exception) -> Callable[..., Any]:
    """Returns a function that raises an error, whatever it is given."""

    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_a_bug_in_the_model_passes_through(runner: SDXLRunner, pair: LoadedPair) -> None:
    """An error that is not the device's is raised as it is, and the job can be stepped again."""

    def bug(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    (job,) = started(runner, request(refiner=None))
    with faulty(pair.base.unet, bug), pytest.raises(RuntimeError, match="mat1 and mat2"):
        runner.step(BASE, [job])
    advance(runner, BASE, [job])
    assert job.state.running.done == 1
