"""A world in which the engine runs on a virtual clock, one turn at a time, watched by a referee."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from imagegen_server.core import (
    STEP_STAGES,
    Defaults,
    EncodedImage,
    GenerationRequest,
    Job,
    Limits,
    ModelProfile,
    Pixels,
    Stage,
    StepResult,
)
from imagegen_server.engine import Encode, Engine, EngineSettings, Finished, Keep, Numbered, Ticket
from imagegen_server.models.fake.runner import FakeRunner
from imagegen_server.models.fake.script import FakeTiming
from support import generations
from support.clock import Clock
from support.executors import Inline
from support.referee import Referee

Seconds = Callable[[Stage, Sequence[Job]], float]
"""How long an evaluation takes."""

PROFILE = ModelProfile(
    name="fake",
    description="",
    base_source="",
    refiner_source="",
    limits=Limits(),
    defaults=Defaults(),
    schedulers=("EulerDiscreteScheduler",),
)


class WatchedRunner(FakeRunner):
    """The fake runner, with a record of every evaluation and a check of every batch."""

    def __init__(
        self,
        clock: Clock,
        settings: EngineSettings,
        timing: FakeTiming,
        *,
        refiner: bool = True,
        seconds: Seconds | None = None,
    ) -> None:
        """Takes how long an evaluation takes from `seconds`, or from `timing` without it."""
        super().__init__(PROFILE, timing=timing, sleep=clock.sleep, refiner=refiner)
        self._settings = settings
        self._given_seconds = seconds
        self.evaluations: Counter[tuple[str, int, Stage]] = Counter()
        self.batches: list[tuple[Stage, list[Job]]] = []

    def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        """Checks the batch, runs it, counts it."""
        shapes = {(job.request.height // 8, job.request.width // 8) for job in jobs}
        assert len(shapes) == 1
        assert len(set(jobs)) == len(jobs)
        if stage in STEP_STAGES and len(jobs) > 1:
            rows = sum(2 if guidance(stage, job) > 1 else 1 for job in jobs)
            assert rows <= self._settings.rows(shapes.pop())
            assert not any(job.request.isolate_batch for job in jobs)
        self.batches.append((stage, list(jobs)))
        results = super().step(stage, jobs)
        for job, result in zip(jobs, results, strict=True):
            if result.failure is None:
                self.evaluations[job.request.request_id, job.index, stage] += 1
        return results

    def _seconds(self, stage: Stage, jobs: Sequence[Job]) -> float:
        given = self._given_seconds
        return super()._seconds(stage, jobs) if given is None else given(stage, jobs)


def guidance(stage: Stage, job: Job) -> float:
    """Returns the guidance of a job in a stage."""
    refiner = job.request.refiner
    return refiner.guidance_scale if stage is Stage.REFINER and refiner is not None else job.request.guidance_scale


def encode(pixels: Pixels, request: GenerationRequest, image_index: int, *, refined: bool) -> EncodedImage:
    """Encodes nothing: the pixels are the file."""
    return EncodedImage(mime_type="image/png", data=pixels.data[:16], sha256="0" * 64)


def encode_preview(pixels: Pixels) -> EncodedImage:
    """Encodes nothing: the pixels are the file."""
    return EncodedImage(mime_type="image/webp", data=pixels.data[:16], sha256="0" * 64)


def make_request(request_id: str, **changes: Any) -> GenerationRequest:
    """Returns a small request: 10 base steps, 5 refiner steps, 64x64."""
    refined = changes.pop("use_refinement", True)
    refiner = dataclasses.replace(
        generations.REFINER,
        num_inference_steps=changes.pop("refiner_steps", 5),
        guidance_scale=changes.get("guidance_scale", 8.0),
    )
    small = dataclasses.replace(
        generations.REQUEST,
        request_id=request_id,
        model="fake",
        prompt="a circle",
        num_inference_steps=10,
        seed=0,
        use_refinement=refined,
        refiner=refiner if refined else None,
        output=dataclasses.replace(generations.REQUEST.output, embed_parameters=False),
    )
    return dataclasses.replace(small, **changes)


class World:
    """An engine on a virtual clock."""

    def __init__(
        self,
        settings: EngineSettings | None = None,
        timing: FakeTiming | None = None,
        *,
        refiner: bool = True,
        keep: Keep | None = None,
        seconds: Seconds | None = None,
        device: type[WatchedRunner] = WatchedRunner,
        encode: Encode = encode,
        encoders: Executor | None = None,
        energy: Callable[[float], float | None] = lambda now: None,
    ) -> None:
        self.clock = Clock(1000.0)
        self.settings = settings or EngineSettings(native_area=64)
        self.timing = timing or FakeTiming(evaluation=0.01, row=0.002, text_encode=0.01, vae_decode=0.01)
        self.runner = device(self.clock, self.settings, self.timing, refiner=refiner, seconds=seconds)
        self.referee = Referee()
        self.engine = Engine(
            runner=self.runner,
            encode=encode,
            encode_preview=encode_preview,
            observer=self.referee,
            settings=self.settings,
            clock=self.clock,
            encoders=encoders or Inline(),
            energy=lambda: energy(self.clock.now),
            keep=keep,
        )
        self.tickets: dict[str, Ticket] = {}
        self.seen: dict[str, list[Numbered]] = {}

    def submit(self, request: GenerationRequest, *, deadline: float | None = None) -> Ticket:
        """Submits a request; `deadline` is in seconds from now."""
        ticket = self.engine.submit(
            request,
            fingerprint=b"",
            deadline=None if deadline is None else self.clock.now + deadline,
            on_ready=lambda: None,
        )
        self.tickets[request.request_id] = ticket
        self.seen[request.request_id] = []
        return ticket

    def read(self) -> None:
        """Takes all events, and closes the tickets that have their last."""
        for request_id, ticket in list(self.tickets.items()):
            self.seen[request_id] += ticket.take()
            last = self.seen[request_id][-1].event
            if isinstance(last, Finished):
                ticket.close(last.error)
                del self.tickets[request_id]

    def run(self, turns: int = 100_000) -> int:
        """Runs turns until nothing is left; returns how many ran."""
        for count in range(turns):
            ran = self.engine.turn()
            self.read()
            if not ran and not self.tickets:
                return count
            if not ran:
                self.clock.sleep(0.01)
        raise AssertionError(f"still busy after {turns} turns")

    def check_balance(self) -> None:
        """Asserts what must hold once nothing lives."""
        assert self.runner.held == set()
        assert sorted(self.referee.outcomes) == sorted(self.referee.accepted_ids)
        assert all(len(outcomes) == 1 for outcomes in self.referee.outcomes.values())
        assert self.referee.state is None or (self.referee.state.queued, self.referee.state.running) == (0, 0)
        assert not +self.referee.open_stages
        assert not -self.referee.open_stages
        assert math.isclose(self.referee.used_seconds, self.referee.device_seconds, abs_tol=1e-6)
        assert math.isclose(self.referee.wasted_seconds, self.referee.lost_seconds, abs_tol=1e-6)
        for events in self.seen.values():
            assert [isinstance(e.event, Finished) for e in events].count(True) == 1
            assert isinstance(events[-1].event, Finished)
            sequences = [e.sequence for e in events]
            assert sequences == sorted(set(sequences))
