"""The gate against regressions: it fails for a slower arm, and not for a noisy machine."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import gate
from bench.arms import Work
from bench.ratios import PairedRatio

COMMITTED = {("one", "latency"): 1.0, ("many", "throughput"): 2.5}
BENCHMARKS = Path(__file__).resolve().parents[3] / "docs" / "benchmarks.json"


def noisy(value: float, jitter: float, seed: int, calls: list[int] | None = None) -> gate.Sample:
    """Returns samples around a value, log-normal as times on a shared machine are."""
    draw = random.Random(seed)

    async def sample() -> float:
        if calls is not None:
            calls.append(1)
        return value * draw.lognormvariate(0, jitter)

    return sample


def measured(jitter: float, seed: int, *, slower: float = 1.0) -> tuple[bool, list[str]]:
    """Returns the gate's verdict and what it said of a service that takes `slower` times as long."""
    said: list[str] = []
    figures = [
        gate.Figure(
            name="one",
            what="latency",
            higher_is_better=False,
            ours=noisy(0.2 * slower, jitter, seed),
            theirs=noisy(0.2, jitter, seed + 1),
        ),
        gate.Figure(
            name="many",
            what="throughput",
            higher_is_better=True,
            ours=noisy(12.5 / slower, jitter, seed + 2),
            theirs=noisy(5.0, jitter, seed + 3),
        ),
    ]
    return asyncio.run(gate.check(figures, COMMITTED, said.append)), said


@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.3])
def test_jitter_alone_does_not_trip_it(jitter: float) -> None:
    """Thirty runs on a machine whose speed jumps about, none of them slower."""
    assert all(measured(jitter, 10 * seed)[0] for seed in range(30))


def test_a_slower_service_trips_it_after_a_second_look() -> None:
    """Half as long again is noticed on a noisy machine, for both figures, and each is measured twice before."""
    for seed in range(10):
        good, said = measured(0.08, 10 * seed, slower=1.5)
        assert not good
        assert sum("FAILED" in line for line in said) == 4
        assert sum("again" in line for line in said) == 2


def test_a_loss_within_the_limit_is_let_pass() -> None:
    """Ten per cent is less than what may be lost."""
    assert measured(0.0, 1, slower=1.1)[0]


def test_one_bad_look_is_not_enough() -> None:
    """A figure that fails once and recovers is good."""
    values = itertools.chain([2.0] * (1 + gate.PAIRS), itertools.repeat(1.0))

    async def ours() -> float:
        return next(values)

    async def theirs() -> float:
        return 1.0

    said: list[str] = []
    figure = gate.Figure(name="one", what="latency", higher_is_better=False, ours=ours, theirs=theirs)
    assert asyncio.run(gate.check([figure], COMMITTED, said.append))
    assert ["FAILED" in line for line in said] == [True, False, False]


def test_time_ends_a_figure_once_it_has_the_least_pairs() -> None:
    """However slow the machine is."""
    calls: list[int] = []
    sample = noisy(1.0, 0.0, 0, calls)
    figure = gate.Figure(name="one", what="latency", higher_is_better=False, ours=sample, theirs=noisy(1.0, 0.0, 1))
    assert asyncio.run(gate.check([figure], COMMITTED, lambda _: None, seconds=0.0))
    assert len(calls) == 1 + gate.LEAST_PAIRS


@pytest.mark.parametrize(
    ("low", "high", "better", "failed"),
    [
        (1.10, 1.40, False, False),
        (1.16, 1.40, False, True),
        (0.60, 0.86, True, False),
        (0.60, 0.84, True, True),
    ],
)
def test_the_favourable_end_of_the_interval_decides(low: float, high: float, better: bool, failed: bool) -> None:
    """Against a committed 1.00."""
    ratio = PairedRatio(median=(low + high) / 2, low=low, high=high, pairs=9)
    assert gate.judge(ratio, 1.0, higher_is_better=better).failed is failed


@pytest.mark.parametrize(
    ("committed", "low", "high", "better", "failed"),
    [
        (4.2, 2.5, 2.7, True, True),
        (4.2, 2.5, 2.9, True, False),
        (0.8, 1.02, 1.1, False, True),
        (0.8, 0.98, 1.1, False, False),
    ],
)
def test_a_goal_binds_on_every_processor(committed: float, low: float, high: float, better: bool, failed: bool) -> None:
    """However much may be lost there."""
    ratio = PairedRatio(median=(low + high) / 2, low=low, high=high, pairs=9)
    goal = gate.LEAST_THROUGHPUT if better else gate.MOST_LATENCY
    loss = gate.LOSS_ELSEWHERE
    assert gate.judge(ratio, committed, higher_is_better=better, goal=goal, loss=loss).failed is failed
    assert not gate.judge(ratio, committed, higher_is_better=better, loss=loss).failed


def test_another_processor_is_allowed_more() -> None:
    """Figures bind on the processor that they come from; elsewhere a loss by half still fails."""
    amd, intel = {"processor": "AMD EPYC"}, {"processor": "Intel(R) Xeon(R) Processor"}
    assert gate.allowed_loss(amd, amd) == gate.LOSS
    assert gate.allowed_loss(intel, amd) == gate.LOSS_ELSEWHERE
    ratio = PairedRatio(median=1.3, low=1.25, high=1.35, pairs=9)
    assert gate.judge(ratio, 1.0, higher_is_better=False).failed
    assert not gate.judge(ratio, 1.0, higher_is_better=False, loss=gate.LOSS_ELSEWHERE).failed
    assert gate.judge(ratio, 0.8, higher_is_better=False, loss=gate.LOSS_ELSEWHERE).failed
    said: list[str] = []
    figure = gate.Figure(
        name="one", what="latency", higher_is_better=False, ours=noisy(1.3, 0.01, 1), theirs=noisy(1.0, 0.01, 2)
    )
    assert not asyncio.run(gate.check([figure], COMMITTED, said.append))
    assert asyncio.run(gate.check([figure], COMMITTED, said.append, loss=gate.LOSS_ELSEWHERE))
    assert "at most 1.40" in said[-1]


class InstantArm:
    """Answers at once."""

    name = "C"

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        yield

    async def run(self, work: Work) -> bytes:
        await asyncio.sleep(0.002)
        return b"file"


def test_an_injected_sleep_trips_the_real_figures() -> None:
    """The seam that --slow uses, with the loads that the gate measures."""

    def verdict(wrap: Callable[[Any], Any]) -> bool:
        figures = gate.figures(wrap(InstantArm()), InstantArm())
        committed = {(figure.name, figure.what): 1.0 for figure in figures}
        return asyncio.run(gate.check(figures, committed, lambda _: None))

    assert not verdict(lambda arm: gate.Slowed(arm, 0.02))


def test_the_committed_figures_have_what_the_gate_compares() -> None:
    committed = gate.committed_ratios(json.loads(BENCHMARKS.read_text(encoding="utf-8")))
    for figure in gate.figures(InstantArm(), InstantArm()):
        assert committed[figure.name, figure.what] > 0


@pytest.mark.parametrize(
    ("good", "stolen", "status"), [(True, 0.0, 0), (True, 0.5, 0), (False, 0.0, 1), (False, 0.05, 1), (False, 0.2, 0)]
)
def test_a_loss_on_a_machine_that_others_slow_is_not_judged(good: bool, stolen: float, status: int) -> None:
    """And is told; on a machine of its own it fails."""
    ended, text = gate.conclude(good=good, stolen=stolen)
    assert ended == status
    assert ("not judged" in text) == (not good and stolen > gate.MOST_STOLEN)
