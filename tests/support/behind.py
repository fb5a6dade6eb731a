"""A device that runs behind the host, as a GPU does, on a virtual clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagegen_server.core import Job, Stage, StepResult
from support.clock import Clock
from support.simulation import WatchedRunner

LOOK_EVERY = 8
"""Evaluations of a job after which a step waits for its own end."""
LAUNCH_SECONDS = 0.0005
"""What the host takes to queue an evaluation."""


class BehindRunner(WatchedRunner):
    """Queues an evaluation while the one before it runs, and returns once that one has ended.

    A step waits for its own end where the host reads something: in the last evaluation of a stage and some on the way,
    and after the text and the pixels.
    """

    def __init__(self, clock: Clock, *args: Any, **kwargs: Any) -> None:
        super().__init__(clock, *args, **kwargs)
        self._clock = clock
        self._sleep = self._queue
        self._before = self._last = 0.0
        """When the evaluation before the last one ends, and when the last one does."""
        self.busy: dict[tuple[str, Stage], float] = {}
        """Seconds that the device truly spent, by request; a batch's are divided evenly."""

    def _queue(self, seconds: float) -> None:
        self._clock.sleep(LAUNCH_SECONDS)
        self._before, self._last = self._last, max(self._last, self._clock.now) + seconds
        for job in self._stepping[1]:
            key = job.request.request_id, self._stepping[0]
            self.busy[key] = self.busy.get(key, 0.0) + seconds / len(self._stepping[1])

    def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        """Runs it behind the host."""
        self._stepping = stage, jobs
        results = super().step(stage, jobs)
        looks = stage in (Stage.TEXT_ENCODE, Stage.VAE_DECODE) or any(self._looks(stage, job) for job in jobs)
        self._wait(self._last if looks else self._before)
        return results

    def _looks(self, stage: Stage, job: Job) -> bool:
        done = self.evaluations[job.request.request_id, job.index, stage]
        planned = self.plan(job.request).stage(stage).evaluations
        return done == planned or done % LOOK_EVERY == 0

    def ahead(self) -> bool:
        """See the protocol."""
        return self._last > self._clock.now

    def settle(self) -> None:
        """See the protocol."""
        self._wait(self._last)

    def _wait(self, until: float) -> None:
        self._clock.now = max(self._clock.now, until)
