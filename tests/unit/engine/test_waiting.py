"""Who begins next, who holds up whom, and what those who wait are told."""

from __future__ import annotations

import sys
from random import Random
from types import FrameType
from typing import Any

import pytest

from imagegen_server.core import Outcome, Priority
from imagegen_server.engine import Accepted, EngineSettings, QueueUpdate
from imagegen_server.errors import QueueFull
from imagegen_server.models.fake.script import FakeTiming
from support.simulation import World, make_request


def accepted(world: World, request_id: str) -> Accepted:
    """Returns the first event of a generation."""
    event = world.seen[request_id][0].event
    assert isinstance(event, Accepted)
    return event


def positions(world: World, request_id: str) -> list[int]:
    """Returns every position that a caller was told."""
    updates = [numbered.event for numbered in world.seen[request_id]]
    return [
        accepted(world, request_id).queue_position,
        *(event.position for event in updates if isinstance(event, QueueUpdate)),
    ]


def turns(world: World, count: int) -> None:
    """Runs turns, whose events are read at once."""
    for _ in range(count):
        world.engine.turn()
        world.read()


def test_readers_of_one_tenant_that_are_slow_do_not_hold_up_another() -> None:
    """No tenant gets the last place among those whose images wait to be read."""
    world = World(EngineSettings(max_running=3, max_delivering=4, native_area=64))
    slow = [f"slow{number}" for number in range(8)]
    for name in slow:
        world.submit(make_request(name, tenant="slow"))
    for _ in range(500):
        world.engine.turn()  # and nobody reads
    state = world.engine.queue_state()
    assert (state.running, state.queued) == (3, 5)
    assert not world.engine._turns.runnable(), "the device thread sleeps"
    for name in slow:
        del world.tickets[name]
    world.submit(make_request("other", tenant="other"))
    turns(world, 100)
    assert world.referee.outcomes["other"] == [Outcome.OK]


def test_callers_without_a_tenant_leave_a_place_where_others_have_one() -> None:
    """Neither on the device nor among slow readers do they get the last; where nobody is told apart they fill it."""
    for told_apart in (True, False):
        world = World(EngineSettings(max_running=3, native_area=64, callers_told_apart=told_apart))
        for number in range(4):
            world.submit(make_request(f"stranger{number}", num_inference_steps=50))
        turns(world, 3)
        assert world.engine.queue_state().queued == (2 if told_apart else 1)
        world.submit(make_request("known", tenant="known"))
        turns(world, 1)
        assert ("known" in world.referee.waits) is told_apart
        world.run()
    world = World(EngineSettings(max_delivering=4, native_area=64, callers_told_apart=True))
    for number in range(8):
        world.submit(make_request(f"stranger{number}"))
    for _ in range(500):
        world.engine.turn()  # and nobody reads
    assert world.engine.queue_state().running < 8
    world.submit(make_request("known", tenant="known"))
    world.engine.turn()
    assert "known" in world.referee.waits


def test_who_waits_hears_of_it_when_those_before_give_up() -> None:
    """Also if nobody begins meanwhile."""
    world = World(EngineSettings(max_running=1, native_area=64, queue_update_interval=0.1))
    for number in range(4):
        world.submit(make_request(f"r{number}", num_inference_steps=100 + number))
    turns(world, 20)
    for number in (1, 2):
        world.engine.cancel(f"r{number}")
    turns(world, 20)
    assert positions(world, "r3") == [3, 2, 0]


def test_news_of_the_queue_are_late_at_most_never_left_out() -> None:
    """Two begin within an interval; the third hears of the second one, too, before it begins itself."""
    world = World(EngineSettings(max_running=1, native_area=64, queue_update_interval=0.5))
    for number, steps in enumerate((5, 5, 100, 101)):
        world.submit(make_request(f"r{number}", num_inference_steps=steps, use_refinement=False))
    turns(world, 100)
    assert positions(world, "r3") == [3, 2, 0]


def test_a_position_counts_those_who_begin_before() -> None:
    """Not those who came before: who has a greater claim overtakes them, and they hear of it."""
    world = World(EngineSettings(max_running=1, native_area=64, queue_update_interval=0.0))
    world.submit(make_request("running", num_inference_steps=50))
    turns(world, 3)
    for number in range(3):
        world.submit(make_request(f"batch{number}", priority=Priority.BATCH))
    world.submit(make_request("urgent"))
    turns(world, 3)
    assert positions(world, "urgent") == [0]
    assert [positions(world, f"batch{number}") for number in range(3)] == [[0, 1], [1, 2], [2, 3]]


def test_a_tenant_with_less_of_the_device_is_before_others() -> None:
    """A queue of one tenant is not before the first of another."""
    world = World(EngineSettings(max_running=2, native_area=64, queue_update_interval=0.0))
    for number in range(4):
        world.submit(make_request(f"many{number}", tenant="many", num_inference_steps=50))
    turns(world, 3)
    world.submit(make_request("one", tenant="one"))
    world.read()
    assert positions(world, "one") == [0]


def calls_of_a_beginning(queued: int) -> int:
    """Returns how many Python functions run in the turn in which somebody begins, and all others hear of it."""
    world = World(EngineSettings(max_running=2, queue_capacity=queued, native_area=64))
    for number in range(queued):
        world.submit(make_request(f"r{number}", num_images=1 + number % 2, tenant=f"t{number % 5}"))
    calls = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        world.engine.turn()
    finally:
        sys.setprofile(None)
    world.read()
    assert positions(world, f"r{queued - 1}")[-1] == queued - 3
    return calls


def test_the_work_of_telling_grows_with_those_who_wait() -> None:
    """Not with their square: four times as many take about four times the work."""
    assert calls_of_a_beginning(200) < 5 * calls_of_a_beginning(50)


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("max_running", [1, 2, 8])
def test_a_wait_is_estimated_with_as_many_as_run_at_once(max_running: int, busy: bool) -> None:
    """Once costs are known the last in a queue of equal requests waits about as long as it was told."""
    world = World(EngineSettings(max_running=max_running, native_area=64))
    for number in range(2 * max_running):
        world.submit(make_request(f"learned{number}"))
    world.run()
    if busy:
        for number in range(max_running):
            world.submit(make_request(f"running{number}"))
        turns(world, 2)
    for number in range(3 * max_running):
        world.submit(make_request(f"queued{number}"))
    world.read()
    last = f"queued{3 * max_running - 1}"
    told = accepted(world, last).estimated_wait
    world.run()
    assert told == pytest.approx(world.referee.waits[last], rel=0.35)


def test_a_full_queue_of_one_at_a_time_says_how_long_one_takes() -> None:
    """Rows that may share a batch are of no use to generations that do not run together."""
    world = World(EngineSettings(max_running=1, queue_capacity=1, native_area=64))
    world.submit(make_request("learned"))
    world.run()
    alone = world.referee.elapsed["learned"]
    world.submit(make_request("running"))
    world.engine.turn()
    world.submit(make_request("queued"))
    with pytest.raises(QueueFull) as refusal:
        world.submit(make_request("refused"))
    assert refusal.value.retry_after == pytest.approx(alone, rel=0.2)


def test_a_device_of_another_speed_serves_in_the_same_order() -> None:
    """What is long to wait depends on how long generations take; all times here are by a power of two apart."""
    orders = []
    for scale in (1.0, 2.0**-5):
        timing = FakeTiming(
            evaluation=0.125 * scale, row=0.03125 * scale, text_encode=0.125 * scale, vae_decode=0.125 * scale
        )
        world = World(EngineSettings(native_area=64, max_running=16), timing)
        for number in range(16):  # until costs are learned, and nothing is left of what was guessed
            world.submit(make_request(f"learned{number}", num_inference_steps=50, height=64 * (1 + number % 2)))
            world.run()
        world.runner.batches.clear()
        draw = Random(7)
        for number in range(24):
            steps, side = draw.choice((5, 20, 50)), draw.choice((64, 128))
            world.submit(make_request(f"r{number}", num_inference_steps=steps, height=side))
            for _ in range(draw.randrange(12)):
                world.engine.turn()
                world.read()
        world.run()
        orders.append([(stage, [job.request.request_id for job in jobs]) for stage, jobs in world.runner.batches])
    assert orders[0] == orders[1]


def test_tenants_take_turns_in_the_queue() -> None:
    """The first of a tenant is before the second of another, which hears of it; nobody hears what it knows."""
    world = World(EngineSettings(max_running=2, native_area=64, queue_update_interval=0.0))
    for name in ("x", "y"):
        world.submit(make_request(name, tenant=name, num_inference_steps=50))
    turns(world, 3)
    for name in ("a0", "a1", "b0", "b1"):
        world.submit(make_request(name, tenant=name[0]))
    turns(world, 3)
    assert [positions(world, name) for name in ("a0", "a1", "b0", "b1")] == [[0], [1, 2], [1], [3]]


def test_of_tenants_with_as_much_of_the_device_the_greater_claim_is_first() -> None:
    """Short work of one is before long work of another that came first."""
    world = World(EngineSettings(max_running=1, native_area=64))
    world.submit(make_request("running", num_inference_steps=50))
    turns(world, 3)
    for name, steps in (("long", 50), ("short", 5)):
        world.submit(make_request(name, tenant=name, num_inference_steps=steps))
    world.read()
    assert [positions(world, name) for name in ("long", "short")] == [[0], [0]]


def test_places_on_the_device_go_by_weight() -> None:
    """A tenant of three times the weight gets three for one."""
    world = World(EngineSettings(max_running=4, native_area=64))
    for number in range(4):
        world.submit(make_request(f"a{number}", tenant="a", tenant_weight=3.0))
        world.submit(make_request(f"b{number}", tenant="b"))
    world.engine.turn()
    assert sorted(world.referee.waits) == ["a0", "a1", "a2", "b0"]


def test_several_images_count_as_long() -> None:
    """Of equal age a single image is before three, whichever came first, though each of the three is shorter."""
    for first, second, position in (("one", "three", 1), ("three", "one", 0)):
        world = World(EngineSettings(max_running=1, native_area=64))
        world.submit(make_request("running", num_inference_steps=50))
        turns(world, 3)
        for name in (first, second):
            steps, images = (10, 1) if name == "one" else (9, 3)
            world.submit(make_request(name, num_inference_steps=steps, num_images=images))
        world.read()
        assert accepted(world, second).queue_position == position


@pytest.mark.parametrize(("evaluation", "told"), [(1e-6, 0.1), (100.0, 30.0)])
def test_a_refusal_names_a_time_within_bounds(evaluation: float, told: float) -> None:
    """However fast or slow the device is, a caller comes back neither at once nor never."""
    timing = FakeTiming(evaluation=evaluation, text_encode=0.0, vae_decode=0.0)
    world = World(EngineSettings(max_running=1, queue_capacity=1, native_area=64), timing)
    world.submit(make_request("learned"))
    world.run()
    world.submit(make_request("queued"))
    with pytest.raises(QueueFull) as refusal:
        world.submit(make_request("refused"))
    assert refusal.value.retry_after == told
