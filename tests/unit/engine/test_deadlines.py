"""Deadlines: what cannot be met is refused, what passes stops the device, and the refiner is left out in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from imagegen_server.core import FallbackReason, GenerationRequest, Job, Outcome, RejectReason, Stage
from imagegen_server.engine import EngineSettings
from imagegen_server.errors import DeadlineExceeded
from imagegen_server.models.fake.script import FakeTiming
from support.ends import NO_FALLBACK, finished
from support.simulation import World, make_request


def test_a_deadline_that_cannot_be_met_is_refused_once_costs_are_known() -> None:
    """The estimate comes from measured turns, and the error carries it."""
    world = World()
    world.submit(make_request("first"))
    world.run()
    with pytest.raises(DeadlineExceeded) as refusal:
        world.submit(make_request("r", num_inference_steps=100), deadline=0.5)
    assert refusal.value.estimate is not None
    assert refusal.value.estimate > 0.5
    world.submit(make_request("r", num_inference_steps=100), deadline=5.0)


def test_a_deadline_that_has_passed_is_refused_whatever_is_known() -> None:
    """Before anything was measured as well."""
    world = World()
    with pytest.raises(DeadlineExceeded, match="cannot be met"):
        world.submit(make_request("r"), deadline=-0.1)
    assert world.referee.rejections == {RejectReason.DEADLINE: 1}


def test_what_hardly_counts_makes_no_estimate_new() -> None:
    """A text that was encoded since says nothing of the steps."""
    world = World()
    world.submit(make_request("learned"))
    world.run()
    world.clock.sleep(61)
    world.submit(make_request("left"))
    world.engine.turn()
    world.engine.cancel("left")
    world.run()
    world.submit(make_request("r", num_inference_steps=100), deadline=0.5)


def test_an_estimate_is_as_old_as_that_of_what_must_be_done() -> None:
    """Where the refiner may be left out, it does not matter how long ago that was measured."""
    world = World()
    world.submit(make_request("learned"))
    world.run()
    world.clock.sleep(61)
    world.submit(make_request("base", use_refinement=False))
    world.run()
    with pytest.raises(DeadlineExceeded):
        world.submit(make_request("r", num_inference_steps=50, refiner_steps=100), deadline=0.5)


def test_an_old_estimate_refuses_nobody() -> None:
    """A minute without a turn, an estimate is no reason to refuse: the caller runs, and the cost is learned anew."""
    world = World()
    world.submit(make_request("first"))
    world.run()
    world.clock.sleep(61)
    world.submit(make_request("r", num_inference_steps=100), deadline=0.5)
    world.run()
    assert isinstance(finished(world, "r").error, DeadlineExceeded)
    with pytest.raises(DeadlineExceeded):
        world.submit(make_request("s", num_inference_steps=100), deadline=0.5)


def test_a_deadline_that_passes_stops_the_device_within_a_step() -> None:
    """The error names the stage and the step that were reached."""
    world = World()
    world.submit(make_request("r", num_inference_steps=40), deadline=0.2)
    world.run()
    error = finished(world, "r").error
    assert isinstance(error, DeadlineExceeded)
    assert error.stage is Stage.BASE
    assert error.step == world.runner.evaluations["r", 0, Stage.BASE]
    assert world.referee.outcomes == {"r": [Outcome.DEADLINE]}
    assert world.referee.elapsed["r"] <= 0.2 + 0.015


def test_a_queued_generation_ends_at_its_deadline() -> None:
    """Waiting does not outlast the caller."""
    world = World(EngineSettings(max_running=1, native_area=64))
    world.submit(make_request("long", num_inference_steps=50))
    world.engine.turn()
    world.submit(make_request("r"), deadline=0.1)
    world.run()
    error = finished(world, "r").error
    assert isinstance(error, DeadlineExceeded)
    assert error.stage is Stage.QUEUED
    assert ("r", 0, Stage.BASE) not in world.runner.evaluations


def test_no_time_for_the_refiner_returns_the_base() -> None:
    """At the hand-off the refiner is left out if the deadline leaves no time for it and the caller accepts that."""
    world = World()
    world.submit(make_request("first", refiner_steps=50))
    world.run()
    seconds = world.referee.elapsed["first"]
    world.submit(make_request("r", refiner_steps=50), deadline=seconds * 0.6)
    world.run()
    assert [f.reason for f in finished(world, "r").fallbacks] == [FallbackReason.DEADLINE]
    assert world.runner.evaluations["r", 0, Stage.REFINER] == 0
    with pytest.raises(DeadlineExceeded):
        world.submit(make_request("strict", refiner_steps=50, allowed_fallbacks=NO_FALLBACK), deadline=seconds * 0.6)


def test_a_refiner_a_little_slower_than_usual_loses_no_image() -> None:
    """What would just be in time by its estimate is not begun: the base's image is there, and would be lost with it."""

    def seconds(stage: Stage, jobs: Sequence[Job]) -> float:
        return 0.0104 if (stage, jobs[0].request.request_id) == (Stage.REFINER, "r") else 0.01

    world = World(seconds=seconds)
    world.submit(make_request("learned", refiner_steps=50))
    world.run()
    world.submit(make_request("r", refiner_steps=50), deadline=1.01 * world.referee.elapsed["learned"])
    world.run()
    assert finished(world, "r").error is None
    assert [taken.reason for taken in finished(world, "r").fallbacks] == [FallbackReason.DEADLINE]


def test_who_wants_the_refiner_or_nothing_is_not_given_the_base() -> None:
    """Though the base took longer than expected and the deadline leaves no time: it passes in the refiner."""

    def seconds(stage: Stage, jobs: Sequence[Job]) -> float:
        return 0.02 if (stage, jobs[0].request.request_id) == (Stage.BASE, "strict") else 0.01

    world = World(seconds=seconds)
    world.submit(make_request("learned"))
    world.run()
    world.submit(make_request("strict", allowed_fallbacks=NO_FALLBACK), deadline=0.235)
    world.run()
    error = finished(world, "strict").error
    assert isinstance(error, DeadlineExceeded)
    assert error.stage is Stage.REFINER


@pytest.mark.parametrize(("images", "refiner_steps", "rows"), [(4, 10, 16), (4, 30, 16), (4, 10, 4), (8, 10, 16)])
@pytest.mark.parametrize(("apart", "isolated"), [(True, False), (False, False), (False, True)])
def test_no_image_is_refined_at_the_cost_of_another(
    images: int, refiner_steps: int, rows: int, apart: bool, isolated: bool
) -> None:
    """Whatever the deadline, as many are refined as it allows, and all arrive; what is hopeless is refused."""

    def world() -> World:
        return World(EngineSettings(native_area=64, row_budget=rows, siblings_apart=apart))

    def several(name: str, **changes: Any) -> GenerationRequest:
        changes |= {"num_images": images, "refiner_steps": refiner_steps, "isolate_batch": isolated}
        return make_request(name, **changes)

    base, timed = world(), world()
    base.submit(several("base", use_refinement=False))
    base.run()
    shortest = base.referee.elapsed["base"]
    timed.submit(several("learn"))
    timed.run()
    refined = []
    for more in range(3, 250, 11):
        name = f"r{more}"
        timed.submit(several(name), deadline=(1 + more / 100) * shortest)
        timed.run()
        last = finished(timed, name)
        assert last.error is None, more
        assert {f.reason for f in last.fallbacks} <= {FallbackReason.DEADLINE}
        refined.append(images - len(last.fallbacks))
    assert refined[0] == 0
    assert refined == sorted(refined)
    assert refined[-1] > 0
    with pytest.raises(DeadlineExceeded, match="cannot be met"):
        timed.submit(several("hopeless"), deadline=0.9 * shortest)


@pytest.mark.parametrize("deadline", [None, 2.35])
def test_a_batch_that_gains_little_is_shared_to_meet_a_deadline(deadline: float | None) -> None:
    """Two that would run one after the other share their turns where the second would come too late."""
    world = World(timing=FakeTiming(evaluation=0.004, row=0.01, text_encode=0.01, vae_decode=0.01))
    plain = {"num_inference_steps": 50, "use_refinement": False}
    for names in (("alone",), ("a", "b")):
        for name in names:
            world.submit(make_request(name, **plain))
        world.run()
    world.clock.sleep(1000)  # so that nothing says that more will come
    world.referee.batches.clear()
    world.submit(make_request("first", **plain))
    world.submit(make_request("second", **plain), deadline=deadline)
    world.run()
    assert world.referee.outcomes["second"] == [Outcome.OK]
    shared = any(evaluations == 2 for stage, _, evaluations in world.referee.batches if stage is Stage.BASE)
    assert shared is (deadline is not None)
