"""What the engine remembers of a generation: enough to tell how it went, nothing that weighs, and not for ever."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import pytest

from imagegen_server import errors
from imagegen_server.core import EncodedImage, GenerationRequest, GenerationState, Outcome, Pixels, Stage
from imagegen_server.engine import EngineSettings
from imagegen_server.models.fake.script import FakeTiming
from support.ends import NO_FALLBACK, finished
from support.simulation import World, make_request

CANARY = "xylophone-canary"


def test_a_report_follows_the_generation() -> None:
    """Queued, running with growing progress, completed with all that its last event says."""
    world = World(timing=FakeTiming(evaluation=0.01))
    ticket = world.submit(make_request("r", num_images=2))
    queued = world.engine.report("r")
    assert (queued.state, queued.stage, queued.fraction) == (GenerationState.QUEUED, Stage.QUEUED, 0.0)
    fractions = []
    for _ in range(12):
        world.engine.turn()
        fractions.append(world.engine.report("r").fraction)
    running = world.engine.report("r")
    assert (running.state, running.ended, running.images) == (GenerationState.RUNNING, None, ())
    assert fractions == sorted(fractions)
    assert 0 < fractions[-1] < 1
    world.run()
    done = world.engine.report("r")
    assert (done.state, done.stage, done.fraction) == (GenerationState.COMPLETED, Stage.SEND, 1.0)
    assert [image.image_index for image in done.images] == [0, 1]
    assert done.finished.usage == ticket._generation.usage()  # nothing else says it
    assert done.ended is not None
    assert done.ended >= done.created
    assert done.plan == queued.plan == running.plan


def test_a_report_is_of_the_image_that_is_furthest_behind() -> None:
    """Images that run one by one are in different stages; the later one is told."""
    world = World(EngineSettings(native_area=64, row_budget=2))
    world.submit(make_request("r", num_images=2))
    while world.runner.evaluations["r", 0, Stage.REFINER] < 2:
        world.engine.turn()
    found = world.engine.report("r")
    assert (found.stage, found.step) == (Stage.BASE, 0)
    world.run()
    assert {timing.stage: timing.steps for timing in finished(world, "r").stage_timings}[Stage.BASE] == 20


@pytest.mark.parametrize(
    ("prompt", "error", "stage"),
    [
        (f"{CANARY} {{base:nan@3}}", errors.NonFinite, Stage.BASE),
        (f"{CANARY} {{base:oom@0}}", errors.OutOfDeviceMemory, Stage.BASE),
        (f"{CANARY} {{text_encode:error}}", errors.ImageGenError, Stage.TEXT_ENCODE),
    ],
)
def test_a_failure_is_remembered_without_what_it_holds_on_to(
    prompt: str, error: type[errors.ImageGenError], stage: Stage
) -> None:
    """Kind and stage stay; traceback, cause and context, and with them frames and tensors, do not."""
    world = World()
    world.submit(make_request("r", prompt=prompt))
    world.run()
    found = world.engine.report("r")
    assert (found.state, found.stage) == (GenerationState.FAILED, stage)
    kept = found.finished.error
    assert type(kept) is error
    assert (kept.__traceback__, kept.__cause__, kept.__context__) == (None, None, None)
    assert CANARY not in repr(found)


@pytest.mark.parametrize("stage", [Stage.TEXT_ENCODE, Stage.BASE, Stage.REFINER, Stage.VAE_DECODE])
def test_several_images_end_in_the_stage_that_failed(stage: Stage) -> None:
    """Not in that of the image that is furthest behind: images run apart, and the first to get there fails."""
    world = World(EngineSettings(native_area=64, row_budget=2))
    request = make_request("r", prompt=f"a cat {{{stage}:error}}", num_images=3, allowed_fallbacks=NO_FALLBACK)
    world.submit(request)
    world.run()
    found = world.engine.report("r")
    assert (found.state, found.stage) == (GenerationState.FAILED, stage)


def test_a_stage_off_the_device_can_be_the_last() -> None:
    """A file that cannot be made ends its generation in that stage, though other images are still on the device."""

    def encode(pixels: Pixels, request: GenerationRequest, image_index: int, *, refined: bool) -> EncodedImage:
        raise OSError("no room")

    world = World(EngineSettings(native_area=64, row_budget=2), encode=encode)
    world.submit(make_request("r", num_images=3))
    world.run()
    found = world.engine.report("r")
    assert (found.state, found.stage) == (GenerationState.FAILED, Stage.IMAGE_ENCODE)
    assert world.referee.ends["r", Stage.IMAGE_ENCODE, Outcome.ERROR] == 1


def test_texts_and_files_are_not_remembered() -> None:
    """Once its stream is gone, nothing of a generation is left but its report."""
    world = World()
    prompts = {"prompt": CANARY, "prompt_2": CANARY, "negative_prompt": CANARY, "negative_prompt_2": CANARY}
    request = make_request("r", **prompts, parameters={"prompt": CANARY})
    assert request.refiner is not None
    ticket = world.submit(dataclasses.replace(request, refiner=dataclasses.replace(request.refiner, prompt=CANARY)))
    generation = weakref.ref(ticket._generation)  # what must go
    world.run()
    assert CANARY not in repr(world.engine.report("r"))
    world.seen.clear()
    del ticket
    gc.collect()
    assert generation() is None


def test_what_is_remembered_is_bounded_by_age_and_number() -> None:
    """Too old or too many: the oldest go first, and with them what their id meant."""
    world = World(EngineSettings(native_area=64, recent=3, recent_seconds=100.0))
    for name in ("a", "b", "c", "d"):
        world.submit(make_request(name))
        world.run()
    with pytest.raises(errors.NotFound):
        world.engine.report("a")
    world.clock.sleep(60)
    world.submit(make_request("e"))
    world.run()
    world.clock.sleep(60)
    for gone in ("b", "c", "d"):
        with pytest.raises(errors.NotFound):
            world.engine.report(gone)
        with pytest.raises(errors.NotFound):
            world.engine.cancel(gone)
    assert world.engine.report("e").state is GenerationState.COMPLETED


def test_a_tenant_that_ends_many_makes_the_server_forget_its_own() -> None:
    """Of too many, the oldest of the tenant that has most goes: the ids of others keep their meaning."""
    world = World(EngineSettings(native_area=64, recent=5))
    for name in ("one", "two"):
        world.submit(make_request(name, tenant="few"))
    world.run()
    for number in range(8):
        world.submit(make_request(f"r{number}", tenant="many"))
        world.engine.cancel(f"r{number}", tenant="many")
        world.run()
    world.submit(make_request("one", tenant="another"))
    world.run()
    kept = [("few", "one"), ("few", "two"), ("another", "one"), ("many", "r6"), ("many", "r7")]
    assert all(world.engine.report(name, tenant=tenant) for tenant, name in kept)
    for number in range(6):
        with pytest.raises(errors.NotFound):
            world.engine.report(f"r{number}", tenant="many")


def test_an_id_that_is_used_again_is_remembered_once() -> None:
    """It counts as one, from its last end on."""
    world = World(EngineSettings(native_area=64, recent=2, recent_seconds=100.0))
    for name in ("a", "b", "a", "a"):
        world.submit(make_request(name))
        world.run()
        world.clock.sleep(30)
    assert world.engine.report("b").state is GenerationState.COMPLETED
    world.clock.sleep(60)
    assert world.engine.report("a").state is GenerationState.COMPLETED
    with pytest.raises(errors.NotFound):
        world.engine.report("b")


@pytest.mark.parametrize("name", ["recent", "recent_seconds"])
def test_bounds_that_make_no_sense_are_refused(name: str) -> None:
    """Nothing could be remembered."""
    wrong: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=name):
        EngineSettings(**wrong)


def test_bare_errors_say_the_same() -> None:
    """Message and facts are copied; what is no error of the server's is not."""
    try:
        raise errors.DeadlineExceeded("late", stage=Stage.BASE, step=3) from ValueError("why")
    except errors.DeadlineExceeded as raised:
        copied = errors.bare(raised)
    assert isinstance(copied, errors.DeadlineExceeded)
    assert (str(copied), copied.stage, copied.step, copied.__cause__) == ("late", Stage.BASE, 3, None)
    assert str(errors.bare(KeyError(CANARY))) == "KeyError"
