"""When a call ends that has a deadline, and what it says then."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from imagegen_server import errors
from imagegen_server.api.cut_short import CutShort
from imagegen_server.api.time_left import EARLY, LAST, MOST, TimeLeft, where_it_is
from imagegen_server.core import Stage
from support.simulation import World, make_request


def late(stage: Stage) -> errors.DeadlineExceeded:
    """Returns what a call ends with."""
    return errors.DeadlineExceeded("late", stage=stage, step=3)


@pytest.mark.parametrize(("given", "margin"), [(100.0, EARLY), (0.5, EARLY), (0.2, MOST * 0.2), (-1.0, 0.0)])
def test_the_device_has_a_little_less_than_the_call(given: float, margin: float) -> None:
    """A fixed time, or a part of a short one."""
    before = time.monotonic()
    left = TimeLeft(given).device_until
    assert left is not None
    assert 0 <= left - (before + given - margin) < 1


async def test_without_a_deadline_nothing_ends() -> None:
    """Nor is anything asked."""
    left = TimeLeft(None)
    assert left.device_until is None
    async with left.ends(lambda: late(Stage.BASE)):
        await asyncio.sleep(0.01)


async def test_what_ends_in_time_is_not_asked() -> None:
    """No timer is left either."""
    asked = []
    async with TimeLeft(0.2).ends(lambda: asked.append(1)):
        await asyncio.sleep(0)
    await asyncio.sleep(0.25)
    assert asked == []


@pytest.mark.parametrize(
    ("stages", "margin"),
    [
        ([Stage.BASE], MOST),
        ([Stage.QUEUED], MOST),
        ([Stage.IMAGE_ENCODE, Stage.SEND], MOST * LAST),
        ([Stage.SEND, Stage.SEND], MOST * LAST),
    ],
)
async def test_it_ends_before_the_deadline(stages: list[Stage], margin: float) -> None:
    """What has left the device by the time that it must has most of the rest, to be made and sent."""
    given, asked = 0.2, iter(stages)
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded) as caught:
        async with TimeLeft(given, early=1.0).ends(lambda: late(next(asked))):
            await asyncio.sleep(60)
    assert caught.value.stage is stages[-1]
    assert time.monotonic() - began >= given - margin * given - 0.001
    assert list(asked) == []


async def test_what_is_delivered_meanwhile_ends_well() -> None:
    """In the time that is left to what is off the device."""
    asked = asyncio.Event()

    def ask() -> errors.DeadlineExceeded:
        asked.set()
        return late(Stage.SEND)

    async with TimeLeft(0.5, early=1.0).ends(ask):
        await asked.wait()


async def test_it_may_go_on() -> None:
    """Where nothing is to be said."""
    async with TimeLeft(0.1).ends(lambda: None):
        await asyncio.sleep(0.15)


async def test_what_goes_wrong_within_is_not_hidden() -> None:
    """Somebody else's timeout, and a cancel, are theirs."""
    with pytest.raises(TimeoutError):
        async with TimeLeft(60.0).ends(lambda: late(Stage.BASE)), asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async def work() -> None:
        async with TimeLeft(60.0).ends(lambda: late(Stage.BASE)):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_call_that_its_generation_outlives_tells_how_far_it_came() -> None:
    """That it goes on, and where; or that it has completed; or nothing, where nothing is known."""
    world = World()
    world.submit(make_request("r"))
    for _ in range(4):
        world.engine.turn()
    running = where_it_is(world.engine.report("r"), stops=False)
    assert str(running) == "the deadline of the call passed; the generation goes on, in stage base after 3 steps"
    world.run()
    ended = where_it_is(world.engine.report("r"), stops=False)
    assert str(ended) == "the deadline of the call passed; the generation has completed"
    assert str(where_it_is(None, stops=False)) == "the deadline of the call passed"
    assert all(isinstance(error, errors.DeadlineExceeded) for error in (running, ended))


@pytest.mark.parametrize(
    ("given", "left", "late"),
    [(1.0, 0.09, True), (1.0, 0.2, False), (100.0, 1.0, True), (100.0, 1.2, False), (1.0, -0.5, True)],
)
def test_a_call_that_is_cut_short_near_its_deadline_was_late(given: float, left: float, late: bool) -> None:
    """Its client's clock began before the server's, and what it gave was rounded on the way."""
    times = iter((given, left))
    context: Any = SimpleNamespace(time_remaining=lambda: next(times))
    code = CutShort(context).code()
    assert code is (grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED)


def test_a_call_without_a_deadline_is_never_late() -> None:
    """Whatever cut it short."""
    context: Any = SimpleNamespace(time_remaining=lambda: None)
    assert CutShort(context).code() is grpc.StatusCode.CANCELLED
