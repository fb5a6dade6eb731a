"""Loads and turns, on arms that take no time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice

import pytest

from bench.arms import Work
from bench.disturbance import Meter
from bench.loads import closed_loop, exhaust, in_turns, one_by_one, requests, together

WORK = Work(prompt="a star", seed=0, side=64, steps=20, refiner_steps=10)


class ScriptedArm:
    """Answers after a few turns of the event loop, and counts."""

    name = "S"

    def __init__(self, *, fails: bool = False) -> None:
        self.open = False
        self.running = 0
        self.most_running = 0
        self.seeds: list[int] = []
        self._fails = fails

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        self.open = True
        try:
            yield
        finally:
            self.open = False

    async def run(self, work: Work) -> bytes:
        assert self.open
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            if self._fails:
                raise RuntimeError("no image")
        finally:
            self.running -= 1
        self.seeds.append(work.seed)
        return b""


class ScriptedMeter(Meter):
    """Reports disturbances as told."""

    def __init__(self, others: float) -> None:
        super().__init__(())
        self._others = others

    def others(self) -> float:
        return self._others


async def turns(disturbance: list[float], pairs: int) -> tuple[str, list[float], float]:
    """Takes pairs of a sample that counts up; returns the order of the arms, the first's samples, the disturbance."""
    order: list[str] = []
    meters = iter(disturbance)

    async def sample(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = await in_turns(lambda: sample("A"), lambda: sample("B"), pairs, lambda: ScriptedMeter(next(meters)))
    return "".join(order), taken.first, taken.others


async def test_arms_take_turns_after_a_warm_up_that_is_discarded() -> None:
    """The warm-up is A B, then come A B B A and so on; its samples are not among the results."""
    assert await turns([0.0] * 8, 4) == ("ABABBAABBA", [3.0, 6.0, 7.0, 10.0], 0.0)


async def test_disturbed_pairs_are_taken_again() -> None:
    """A pair during which another program ran is replaced by a later one."""
    order, first, others = await turns([0.0, 0.9, 0.05, 0.0], 3)
    assert len(order) == 10
    assert first == [3.0, 7.0, 10.0]
    assert others == 0.05


async def test_a_machine_that_is_never_quiet_ends_the_search() -> None:
    """After twice as many pairs the least disturbed are kept, and the disturbance is told."""
    order, first, others = await turns([0.9, 0.5, 0.8, 0.6], 2)
    assert len(order) == 10
    assert first == [6.0, 10.0]
    assert others == 0.6


async def test_a_closed_loop_keeps_its_callers_busy_and_leaves_nothing_running() -> None:
    """There are never more requests than callers, at least as many complete as were asked for, and none is left."""
    arm = ScriptedArm()
    assert await closed_loop(arm, WORK, in_flight=3, ramp=3, counted=6) > 0
    assert arm.most_running == 3
    assert len(arm.seeds) >= 9
    assert arm.running == 0


async def test_a_closed_loop_ends_with_the_error_of_a_caller() -> None:
    """A failing arm fails the measurement instead of hanging it."""
    with pytest.raises(RuntimeError, match="no image"):
        await asyncio.wait_for(closed_loop(ScriptedArm(fails=True), WORK, in_flight=2, ramp=1, counted=2), 60)


async def test_a_list_of_requests_is_used_up_once() -> None:
    """Every request runs exactly once, by at most so many callers."""
    arm = ScriptedArm()
    await exhaust(arm, list(islice(requests(WORK), 7)), in_flight=2)
    assert sorted(arm.seeds) == list(range(7))
    assert arm.most_running == 2


async def test_requests_arrive_one_by_one_or_together() -> None:
    """One by one there is never a second request; together there are all."""
    apart, at_once = ScriptedArm(), ScriptedArm()
    await one_by_one(apart, [WORK] * 4)
    await together(at_once, [WORK] * 4)
    assert (apart.most_running, at_once.most_running) == (1, 4)
