"""Which generations live, where they are, and which ids were used. Guarded by the engine's lock."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from itertools import chain

from imagegen_server.core import EngineObserver, GenerationKey, GenerationState, Outcome, QueueState
from imagegen_server.engine.estimate import CostModel
from imagegen_server.engine.generation import Generation
from imagegen_server.engine.outcomes import final_state, outcome_of
from imagegen_server.engine.recent import Recent
from imagegen_server.engine.report import Report
from imagegen_server.engine.settings import EngineSettings
from imagegen_server.errors import bare


class Ledger:
    """Every admitted generation is in exactly one of `queued`, `active` and `delivering` until it has ended."""

    def __init__(self, observer: EngineObserver, cost: CostModel, settings: EngineSettings) -> None:
        self.queued: dict[GenerationKey, Generation] = {}
        """Waiting for their first turn, oldest first."""
        self.active: dict[GenerationKey, Generation] = {}
        """On the device."""
        self.delivering: dict[GenerationKey, Generation] = {}
        """Off the device; images are being encoded or sent."""
        self._observer = observer
        self._cost = cost
        self._settings = settings
        self._recent = Recent(settings)

    @property
    def live(self) -> int:
        """Generations that have not ended."""
        return len(self.queued) + len(self.active) + len(self.delivering)

    @property
    def full(self) -> bool:
        """Whether nothing more may be queued."""
        return len(self.queued) >= self._settings.queue_capacity

    def __iter__(self) -> Iterator[Generation]:
        return chain(self.queued.values(), self.active.values(), self.delivering.values())

    def state(self) -> QueueState:
        """Returns how full the engine is."""
        return QueueState(
            queued=len(self.queued),
            running=len(self.active) + len(self.delivering),
            delivering=len(self.delivering),
            capacity=self._settings.queue_capacity,
        )

    def find(self, key: GenerationKey) -> Generation | None:
        """Returns the living generation of a tenant's id."""
        return self.queued.get(key) or self.active.get(key) or self.delivering.get(key)

    def ended(self, key: GenerationKey, now: float) -> Report | None:
        """Returns what is remembered of a recent generation."""
        return self._recent.get(key, now)

    def report(self, key: GenerationKey, now: float) -> Report | None:
        """Returns what is known of a living or recent generation."""
        living = self.find(key)
        return self.ended(key, now) if living is None else living.report(self._cost, now)

    def add(self, generation: Generation) -> None:
        """Queues a generation."""
        self.queued[generation.request.key] = generation
        self._observer.queue_changed(self.state())

    def start(self, generation: Generation) -> None:
        """Moves a generation from the queue to the device."""
        self.active[generation.request.key] = self.queued.pop(generation.request.key)
        generation.state = GenerationState.RUNNING
        self._observer.queue_changed(self.state())

    def deliver(self, generation: Generation) -> None:
        """Moves a generation off the device."""
        self.delivering[generation.request.key] = self.active.pop(generation.request.key)
        self._observer.queue_changed(self.state())

    def end(self, generation: Generation, error: Exception | None, now: float) -> None:
        """Ends a generation; nothing happens if it has ended."""
        if generation.ended:
            return
        key = generation.request.key
        outcome = outcome_of(error, degraded=bool(generation.fallbacks))
        stage = generation.stage
        report = generation.report(self._cost, now)
        generation.state = final_state(outcome)
        for place in (self.queued, self.active, self.delivering):
            place.pop(key, None)
        self._recent.put(_as_ended(report, generation, error), now)
        if outcome is Outcome.CANCELLED:
            self._observer.cancelled(generation.request, stage, now - generation.stop_asked_at)
        lost = generation.account.delivering_seconds  # what was given up was told then
        if error is not None and lost > 0:
            self._observer.wasted(outcome, lost)
        self._observer.used(generation.request, outcome, generation.usage())
        self._observer.ended(generation.request, outcome, now - generation.admitted_at, error)
        self._observer.queue_changed(self.state())
        for call in generation.on_ended:
            call(generation.cancel_asked)


def _as_ended(report: Report, generation: Generation, error: Exception | None) -> Report:
    """Returns the last report of a generation."""
    return dataclasses.replace(
        report,
        state=generation.state,
        fraction=report.fraction if error is not None else 1.0,
        finished=generation.finished_event(None if error is None else bare(error)),
        ended=report.ended or time.time(),
    )
