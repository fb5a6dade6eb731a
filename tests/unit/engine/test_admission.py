"""What is let in and what is refused, and what is said of it before it runs."""

from __future__ import annotations

import dataclasses

import pytest

from imagegen_server.core import Outcome, QueueState, RefinerMode, RejectReason, Stage
from imagegen_server.engine import EngineSettings
from imagegen_server.errors import AlreadyExists, InvalidRequest, QueueFull
from support.simulation import World, make_request


def test_a_queue_that_is_full_refuses_with_a_time() -> None:
    """The cap is never exceeded, and the refusal says when to come back."""
    world = World(EngineSettings(queue_capacity=2, max_running=1, native_area=64))
    for number in range(2):
        world.submit(make_request(f"r{number}"))
    world.engine.turn()
    world.submit(make_request("third"))
    with pytest.raises(QueueFull) as refusal:
        world.submit(make_request("fourth"))
    assert 0.1 <= refusal.value.retry_after <= 30
    assert world.referee.rejections == {RejectReason.QUEUE_FULL: 1}
    assert world.engine.queue_state().queued == 2


def test_one_step_cannot_be_divided() -> None:
    """The fake runner refuses it, as the real one does."""
    request = make_request("r", num_inference_steps=1)
    assert request.refiner is not None
    ensemble = dataclasses.replace(request.refiner, mode=RefinerMode.ENSEMBLE, switch_at=0.8)
    with pytest.raises(InvalidRequest, match="num_inference_steps"):
        World().submit(dataclasses.replace(request, refiner=ensemble))


def test_an_id_is_used_for_one_body() -> None:
    """A living id, and a recent id with another body, are refused; the same body may run again."""
    world = World()
    world.submit(make_request("r"))
    with pytest.raises(AlreadyExists):
        world.submit(make_request("r"))
    world.run()
    with pytest.raises(AlreadyExists):
        world.engine.submit(make_request("r"), fingerprint=b"other", deadline=None, on_ready=lambda: None)
    world.submit(make_request("r"))
    world.run()
    assert world.referee.outcomes["r"] == [Outcome.OK, Outcome.OK]
    assert world.referee.rejections == {RejectReason.INVALID: 2}


def test_the_observer_hears_how_full_the_engine_is_from_the_start_to_the_end() -> None:
    """Before the first request it is empty; while images are only read, the device has nothing to do for them."""
    world = World(EngineSettings(queue_capacity=7, native_area=64))
    assert world.referee.state == QueueState(queued=0, running=0, delivering=0, capacity=7)
    ticket = world.submit(make_request("r", num_images=2))
    assert world.referee.state == QueueState(queued=1, running=0, delivering=0, capacity=7)
    world.engine.turn()
    assert world.referee.state == QueueState(queued=0, running=1, delivering=0, capacity=7)
    while world.engine.turn():
        pass
    assert world.referee.state == QueueState(queued=0, running=1, delivering=1, capacity=7)
    ticket.take()
    ticket.delivered()
    ticket.close()
    assert world.referee.state == QueueState(queued=0, running=0, delivering=0, capacity=7)


def test_equal_plans_are_kept_once() -> None:
    """So one estimate serves all who wait with them, however many those are."""
    world = World()
    for name, steps in (("r", 10), ("s", 10), ("t", 11)):
        world.submit(make_request(name, num_inference_steps=steps))
    plans = [world.engine.report(name).plan for name in ("r", "s", "t")]
    assert plans[0] is plans[1]
    assert plans[0] != plans[2]


def test_images_of_several_generations_are_told_apart() -> None:
    """Each makes its own steps, in batches with the others."""
    world = World()
    for name in ("r", "s"):
        world.submit(make_request(name, num_images=3))
    world.run()
    world.check_balance()
    made = {
        (name, index): world.runner.evaluations[name, index, Stage.BASE] for name in ("r", "s") for index in range(3)
    }
    assert set(made.values()) == {10}
    assert (Stage.BASE, 12, 6) in world.referee.batches
    assert world.referee.encoded == {"r": 3, "s": 3}
