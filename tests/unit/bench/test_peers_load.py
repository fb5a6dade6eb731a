"""The load of the comparison with peers: the same for everybody, kept to by the generator, accounted for."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

from bench.peers import ledger, plan
from bench.peers.asks import SIDES, STEPS, Ask, asks, leaving, poisson
from bench.peers.drive import arrivals, closed
from bench.peers.pipelines import groups
from bench.peers.wire import decode_ask, decode_reply, encode_ask


class ScriptedCaller:
    """Answers after some seconds, tells of progress if it can, and notes what was given up."""

    def __init__(self, seconds: float, *, progress: bool = False, error: str = "") -> None:
        self.running = 0
        self.most = 0
        self.given_up: list[str] = []
        self._seconds = seconds
        self._progress = progress
        self._error = error

    async def ask(self, ask: Ask, progressed: Callable[[], None]) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._seconds / 2)
            if self._progress:
                progressed()
            await asyncio.sleep(self._seconds / 2)
            if self._error:
                raise ConnectionError(self._error)
        except asyncio.CancelledError:
            self.given_up.append(ask.key)
            raise
        finally:
            self.running -= 1
        return b"file"


def test_a_load_is_the_same_every_time_and_another_in_every_block() -> None:
    assert asks("a", 9, mixed=True, seed=1) == asks("a", 9, mixed=True, seed=1)
    assert asks("a", 9, mixed=True, seed=1) != asks("a", 9, mixed=True, seed=2)
    made = asks("a", 5, mixed=True, seed=1)
    assert poisson(made, rate=2.0, seed=3) == poisson(made, rate=2.0, seed=3)
    assert leaving(made, part=0.5, within=2.0, seed=3) == leaving(made, part=0.5, within=2.0, seed=3)


def test_mixed_requests_cover_the_ranges_and_equal_ones_are_equal() -> None:
    made = asks("a", 400, mixed=True, seed=1)
    assert {ask.side for ask in made} == set(SIDES)
    assert {ask.steps for ask in made} == set(range(STEPS[0], STEPS[1] + 1))
    assert fmean(ask.steps for ask in made) == pytest.approx(35, abs=2)
    assert len({ask.prompt for ask in made}) == len({ask.key for ask in made}) == 400
    assert len({(ask.side, ask.steps) for ask in asks("a", 20, mixed=False, seed=1)}) == 1


def test_arrivals_come_at_their_rate() -> None:
    """Gaps of a Poisson process have the mean 1 / rate and as great a deviation."""
    made = poisson(asks("a", 2000, mixed=False, seed=1), rate=4.0, seed=1)
    gaps = [after.at - before.at for before, after in itertools.pairwise(made)]
    assert min(gaps) > 0
    assert fmean(gaps) == pytest.approx(0.25, rel=0.1)
    assert fmean((gap - 0.25) ** 2 for gap in gaps) ** 0.5 == pytest.approx(0.25, rel=0.2)
    with pytest.raises(ValueError, match="above 0"):
        poisson(made, rate=0.0, seed=1)


def test_a_part_of_the_callers_leaves_in_time() -> None:
    made = leaving(asks("a", 40, mixed=True, seed=1), part=0.25, within=2.0, seed=1)
    times = [ask.leaves_after for ask in made if ask.leaves_after is not None]
    assert len(times) == 10
    assert all(0 < each <= 2.0 for each in times)


def test_requests_survive_the_wire() -> None:
    from google.protobuf.wrappers_pb2 import BytesValue, StringValue

    (ask,) = asks("a", 1, mixed=True, seed=1)
    assert decode_ask(StringValue.FromString(encode_ask(ask))) == ask
    assert decode_reply(BytesValue(value=b"file").SerializeToString()) == b"file"
    assert Ask.from_json(json.loads(json.dumps(ask.to_json()))) == ask


@pytest.mark.parametrize(("steps", "executed"), [(20, 6), (21, 6), (50, 15)])
def test_refiner_steps_are_those_that_diffusers_executes(steps: int, executed: int) -> None:
    assert Ask(key="", prompt="", seed=0, side=64, steps=steps).refiner_steps == executed


async def test_a_closed_loop_keeps_its_callers_busy() -> None:
    """Never more than so many, every request once, in the order of the list, with its latency."""
    caller = ScriptedCaller(0.01)
    made = asks("a", 7, mixed=False, seed=1)
    heard = await closed(caller, made, 3)
    assert [each.key for each in heard] == [ask.key for ask in made]
    assert caller.most == 3
    assert all(each.latency is not None and each.latency >= 0.01 for each in heard)


async def test_arrivals_wait_for_nobody() -> None:
    """All are under way at once although none has been answered; none comes before its instant."""
    caller = ScriptedCaller(0.2)
    began = asyncio.get_running_loop().time()
    made = [Ask(key=str(n), prompt="", seed=0, side=64, steps=20, at=0.01 * n) for n in range(5)]
    heard = await arrivals(caller, made)
    assert caller.most == 5
    assert all(each.sent - began >= ask.at for each, ask in zip(heard, made, strict=True))


async def test_callers_leave_and_close_their_calls() -> None:
    made = [
        Ask(key="stays", prompt="", seed=0, side=64, steps=20),
        Ask(key="leaves", prompt="", seed=0, side=64, steps=20, leaves_after=0.02),
    ]
    caller = ScriptedCaller(0.1)
    stays, leaves = await arrivals(caller, made)
    assert caller.given_up == ["leaves"]
    assert caller.running == 0
    assert stays.left is None
    assert leaves.left is not None
    assert leaves.latency is None
    assert leaves.left - leaves.sent >= 0.02


async def test_first_progress_is_the_image_where_nothing_is_said_before() -> None:
    made = asks("a", 1, mixed=False, seed=1)
    (silent,) = await closed(ScriptedCaller(0.02), made, 1)
    (telling,) = await closed(ScriptedCaller(0.02, progress=True), made, 1)
    assert silent.first_progress == silent.latency
    assert telling.first_progress is not None
    assert telling.latency is not None
    assert telling.first_progress < telling.latency


async def test_a_failed_call_is_heard_and_the_others_go_on() -> None:
    heard = await closed(ScriptedCaller(0.0, error="refused"), asks("a", 3, mixed=False, seed=1), 1)
    assert [each.error for each in heard] == ["ConnectionError: refused"] * 3
    assert all(each.latency is None for each in heard)


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert ledger.read(path) == []
    book = ledger.Ledger(path)
    with book.call(["a", "b"]):
        pass
    with pytest.raises(RuntimeError), book.call(["c"]):
        raise RuntimeError
    book.close()
    path.write_text(path.read_text() + "[[")  # a line that is being written
    entries = ledger.read(path)
    assert [entry.keys for entry in entries] == [("a", "b"), ("c",)]
    assert all(entry.began <= entry.ended for entry in entries)


def test_waste_is_what_was_spent_after_the_caller_had_left() -> None:
    """Each request of a batch has its part; before it left, work was for somebody."""
    entries = [
        ledger.Entry(keys=("a", "b"), began=0.0, ended=4.0),
        ledger.Entry(keys=("a",), began=4.0, ended=5.0),
        ledger.Entry(keys=(), began=5.0, ended=9.0),
    ]
    assert ledger.device_seconds(entries, ["a"]) == 3.0
    assert ledger.device_seconds(entries, ["a", "b"]) == 5.0
    assert ledger.wasted_seconds(entries, {}) == 0.0
    assert ledger.wasted_seconds(entries, {"a": 1.0}) == 2.5
    assert ledger.wasted_seconds(entries, {"a": 4.5, "b": 3.0}) == 1.0
    assert ledger.wasted_seconds(entries, {"a": 9.0}) == 0.0


def test_a_pipeline_call_makes_equal_requests_together() -> None:
    made = [
        Ask(key=str(n), prompt="", seed=n, side=side, steps=steps)
        for n, (side, steps) in enumerate([(64, 20), (128, 20), (64, 20), (64, 21)])
    ]
    assert groups(made) == [[0, 2], [1], [3]]


def test_visits_turn_back_so_that_drift_cancels() -> None:
    assert [name for _, name in plan.visits(tuple("ABCD"), 1)] == list("ABCDDCBA")
    assert [block for block, _ in plan.visits(tuple("AB"), 2)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_every_system_gets_the_same_requests_for_a_block() -> None:
    """Enough to keep the callers of a closed loop busy, whatever the scale."""
    for load in plan.loads():
        made = plan.requests(load, 3, capacity=2.0, scale=0.0)
        assert made == plan.requests(load, 3, capacity=2.0, scale=0.0)
        assert len(made) >= max(3, 2 * load.in_flight)
        assert any(ask.leaves_after for ask in made) is load.leave
        assert (made[-1].at > 0) is bool(load.part)
    keys = [ask.key for load in plan.loads() for ask in plan.requests(load, 3, capacity=2.0, scale=1.0)]
    assert len(keys) == len(set(keys))


def test_the_plan_fits_the_time() -> None:
    """A slower machine measures less, within bounds."""
    fast = plan.scale_for(900, {True: 2.0, False: 6.0}, systems=4, rounds=1)
    slow = plan.scale_for(900, {True: 0.5, False: 1.0}, systems=4, rounds=1)
    assert 0.2 <= slow < fast <= 4.0
    assert plan.scale_for(1, {True: 0.5, False: 1.0}, systems=4, rounds=1) == 0.2
