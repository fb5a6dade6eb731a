"""The engine's own time: turns of a runner that does nothing at once. Milliseconds; they inform and gate nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Final

from prometheus_client import CollectorRegistry

from bench.ratios import orders
from imagegen_server import telemetry
from imagegen_server.core import EngineObserver, Stage
from imagegen_server.engine import Runner
from support.engines import engine_of

STEPS: Final = 100
"""Base steps of each job; there is no refiner stage, so that every job of a sample is in every turn."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Overhead:
    """What a turn of the device costs besides the device."""

    jobs: int
    """Jobs that each turn advances by a step."""
    observed: bool
    """Whether the metrics listen, as in the server."""
    turn_ms: float
    """Median over the samples of the mean turn: the time that the device waits for the engine."""

    @property
    def step_ms(self) -> float:
        """The same for each step of one image."""
        return self.turn_ms / self.jobs


def measure(samples: int, jobs: tuple[int, ...] = (1, 8)) -> list[Overhead]:
    """Returns the overhead for several numbers of jobs, with and without listeners."""
    cases = [(count, observed) for count in jobs for observed in (False, True)]
    turns: dict[tuple[int, bool], list[float]] = {case: [] for case in cases}
    for case in cases:
        _seconds_of_a_turn(*case)  # warm-up
    for forwards in orders(samples):
        for case in cases if forwards else reversed(cases):
            turns[case].append(_seconds_of_a_turn(*case))
    return [
        Overhead(jobs=count, observed=observed, turn_ms=median(turns[count, observed]) * 1e3)
        for count, observed in cases
    ]


def _seconds_of_a_turn(jobs: int, observed: bool) -> float:
    from support.pairs import request

    engine = engine_of(_runner(), _observer(observed), max_running=jobs)
    tickets = [
        engine.submit(
            request(request_id=f"bench-{number}", num_inference_steps=STEPS, refiner=None),
            fingerprint=b"",
            deadline=None,
            on_ready=lambda: None,
        )
        for number in range(jobs)
    ]
    for _ in range(jobs):
        engine.turn()  # text
    began = time.perf_counter()
    for _ in range(STEPS):
        engine.turn()
    elapsed = time.perf_counter() - began
    while not all(ticket.timings()[-1].stage is Stage.IMAGE_ENCODE for ticket in tickets):
        engine.turn()
    for ticket in tickets:
        ticket.close()
    return elapsed / STEPS


def _runner() -> Runner:
    from imagegen_server.models.fake.runner import FakeRunner
    from imagegen_server.models.fake.script import FakeTiming
    from imagegen_server.models.profiles import bare_profile

    instant = FakeTiming(evaluation=0.0, row=0.0, text_encode=0.0, vae_decode=0.0)
    return FakeRunner(bare_profile("fake"), timing=instant, sleep=_at_once)


def _at_once(seconds: float) -> None:
    """Sleeps not at all."""
    del seconds


def _observer(observed: bool) -> EngineObserver:
    if not observed:
        return EngineObserver()
    metrics = telemetry.Metrics(CollectorRegistry(), models=["fake"], methods=[])
    return telemetry.fan_out(EngineObserver, (telemetry.MetricsObserver(metrics, "fake"),), on_error=_failed)


def _failed(event: str, error: Exception) -> None:
    raise RuntimeError(f"a listener failed at {event}") from error
