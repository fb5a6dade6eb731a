"""One turn of the device: who takes part, and what is learned from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from imagegen_server.core import STEP_STAGES, Feature, Outcome, Stage, StepResult
from imagegen_server.engine.advance import Advance
from imagegen_server.engine.books import Books
from imagegen_server.engine.endings import Endings
from imagegen_server.engine.events import StageCompleted, StageStarted
from imagegen_server.engine.generation import Generation, Track
from imagegen_server.engine.outcomes import outcome_of
from imagegen_server.engine.outstanding import Charge, Outstanding, Turn
from imagegen_server.engine.policy import Batching, Candidate, weight
from imagegen_server.engine.runner import Runner
from imagegen_server.engine.shares import Shares
from imagegen_server.engine.utilization import Utilization
from imagegen_server.engine.waiting import Waiting
from imagegen_server.errors import deadline_passed

FIRST: Final = 1e45
"""Scales the claims of those who are served first: by more than any two claims differ."""
SWITCHES_APART: Final = 4
"""How many changes of the resident model a tenant may be behind before it is preferred."""


class Turns:
    """Begins and ends turns. Runs on the device thread, under the engine's lock."""

    def __init__(self, books: Books, waiting: Waiting, advance: Advance, endings: Endings, runner: Runner) -> None:
        settings, cost = books.settings, books.cost
        self._ledger = books.ledger
        self._cost = cost
        self._observer = books.observer
        self._settings = settings
        self._waiting = waiting
        self._advance = advance
        self._endings = endings
        self._runner = runner
        self._batching = Batching(cost.seconds, books.rows, siblings_apart=settings.siblings_apart)
        self._shares = Shares(SWITCHES_APART * settings.switch_seconds)
        self._utilization = Utilization()
        self._outstanding = Outstanding(cost.seconds)
        self._resident: Stage | None = None
        self._switch_seconds = settings.switch_seconds

    @property
    def outstanding(self) -> bool:
        """Whether the device may still be at the last turn."""
        return bool(self._outstanding)

    def runnable(self) -> bool:
        """Returns whether the next turn has something to do."""
        return bool(self._ledger.active) or self._waiting.can_begin()

    def wakes_at(self, now: float) -> float | None:
        """Returns when a turn is due though nobody can begin; None for not before somebody comes or goes."""
        return self._waiting.wakes_at(now)

    def begin(self, now: float) -> list[Track]:
        """Ends what is to be ended, starts what may start, and returns the batch that runs next."""
        self._sweep(now)
        self._start_queued(now)
        tracks = {
            track.key: track
            for generation in self._ledger.active.values()
            for track in generation.tracks
            if track.on_device
        }
        behind = self._shares.behind({generation.request.tenant for generation in self._ledger.active.values()})
        present = len(self._ledger.active) + len(self._ledger.queued)
        chosen = self._batching.choose(
            self._candidates(behind, now),
            resident=self._resident,
            switch_seconds=self._switch_seconds,
            # tenants that take turns wait for each other in any case
            crowd=self._utilization.crowd(present, now) if behind is None else math.inf,
        )
        batch = [tracks[key] for key in chosen]
        for track in batch:
            track.stepped = True
            track.job.preview_due = (track.planned.stage, track.done + 1) in track.generation.previews_at
            if track.stage_started_at is None:
                self._enter_stage(track, now)
        return batch

    def _sweep(self, now: float) -> None:
        """Ends generations whose deadline has passed or that were asked to stop."""
        for generation in [*self._ledger.queued.values(), *self._ledger.active.values()]:
            if generation.stop is None and generation.deadline is not None and now >= generation.deadline:
                self._endings.stop(generation, deadline_passed(generation.stage, generation.steps_done))
            if generation.stop is not None and not generation.ended:
                self._release(generation)
                self._endings.finish(generation, generation.stop)

    def _release(self, generation: Generation) -> None:
        """Frees what the device holds of a generation."""
        for track in generation.tracks:
            if track.stepped:
                track.stepped = False
                self._runner.release(track.job)

    def _start_queued(self, now: float) -> None:
        """Moves the generations with the greatest claims from the queue to the device, as far as there is room."""
        while (generation := self._waiting.next(now)) is not None:
            self._start(generation, now)
        self._waiting.tell(now)

    def _start(self, generation: Generation, now: float) -> None:
        request = generation.request
        self._advance.note_peak_memory()
        self._ledger.start(generation)
        generation.started_at = now
        waited = generation.leave(Stage.QUEUED, now)
        generation.buffer.publish(StageCompleted(stage=Stage.QUEUED, image_index=None, duration=waited, steps=0))
        self._observer.stage_ended(request, Stage.QUEUED, None, Outcome.OK, waited)
        self._observer.first_turn(request, waited)
        for track in generation.tracks:
            if generation.plan.unplanned_fallback is not None:
                self._advance.fall_back(track, generation.plan.unplanned_fallback)

    def _candidates(self, behind: str | None, now: float) -> list[Candidate]:
        """Returns the jobs that could run; those of the tenant that is behind, if one is, before all others.

        Of a tenant's jobs those come first that are to show whether they made their batch fail: each needs one turn by
        itself for that, and holds up the batch until then.
        """
        candidates = []
        for generation in self._ledger.active.values():
            remaining = generation.remaining(self._cost)
            first = FIRST * FIRST if generation.request.tenant == behind else 1.0
            age = now - generation.admitted_at
            claim = first * weight(remaining=remaining, age=age, priority=generation.request.priority)
            slack = math.inf if generation.deadline is None else generation.deadline - now - remaining
            for track in generation.tracks:
                if track.on_device:
                    planned = track.planned
                    refiner = track.following if planned.stage is Stage.BASE else None
                    candidates.append(
                        Candidate(
                            key=track.key,
                            generation=generation.number,
                            stage=planned.stage,
                            shape=generation.plan.latent_shape,
                            rows=planned.rows,
                            weight=claim * FIRST if track.alone else claim,
                            alone=track.alone or generation.request.isolate_batch,
                            evaluations_left=track.left(track.position),
                            next_evaluations=refiner.evaluations if refiner is not None else 0,
                            next_rows=refiner.rows if refiner is not None else 0,
                            remaining=remaining,
                            slack=slack,
                        )
                    )
        return candidates

    def _enter_stage(self, track: Track, now: float) -> None:
        generation, planned = track.generation, track.planned
        track.stage_started_at = now
        track.reported_at = float("-inf")
        generation.enter(planned.stage, now)
        if not track.told:
            return
        index = track.told_index
        generation.buffer.publish(StageStarted(stage=planned.stage, image_index=index, total_steps=planned.steps))
        self._observer.stage_started(generation.request, planned.stage, index)

    def end(
        self,
        batch: Sequence[Track],
        results: Sequence[StepResult] | Exception,
        *,
        started: float,
        now: float,
        joules: float | None,
    ) -> None:
        """Learns from a step, which took `joules` if that is known, and advances its jobs."""
        stage = batch[0].planned.stage
        if stage in STEP_STAGES:
            self._resident = stage
        turn = Turn(
            stage=stage,
            shape=batch[0].generation.plan.latent_shape,
            shares=[(track, track.planned.rows) for track in batch],
            failed=isinstance(results, Exception),
        )
        self._utilization.observe(now - started, now)
        self._charge(self._outstanding.book(turn, now - started, joules, ahead=self._runner.ahead()), now)
        self.note_adaptations()
        self._advance.batch(batch, results, now)

    def prepared(self, batch: Sequence[Track]) -> bool:
        """Returns whether the device has run as many rows of that stage and size before."""
        rows = sum(track.planned.rows for track in batch)
        return self._cost.prepared(batch[0].planned.stage, batch[0].generation.plan.latent_shape, rows)

    def settled(self, *, started: float, now: float, joules: float | None) -> None:
        """Learns from the end of the last turn, for which the device was waited."""
        self._utilization.observe(now - started, now)
        self._charge(self._outstanding.settle(now - started, joules), now)

    def _charge(self, charges: Sequence[Charge], now: float) -> None:
        """Books what turns took, and learns from those that have ended."""
        for charge in charges:
            turn, rows = charge.turn, charge.turn.rows
            for track, own in turn.shares:
                request, share = track.generation.request, own / rows
                track.generation.spend(track, share, charge.seconds, charge.joules)
                self._shares.charge(request.tenant, request.tenant_weight, charge.seconds * share)
                if track.generation.ended:  # stopped while the device was at it
                    outcome = outcome_of(track.generation.stop, degraded=False)
                    self._observer.wasted(outcome, charge.seconds * share)
            self._observer.device_used(turn.stage, charge.seconds)
            if charge.ended and not turn.failed:
                self._cost.observe(turn.stage, turn.shape, rows, turn.seconds, now)
                self._observer.batch_executed(turn.stage, rows, len(turn.shares), turn.seconds)

    def note_adaptations(self) -> None:
        """Tells what the runner gave up."""
        for adaptation in self._runner.adaptations():
            if adaptation.feature is Feature.RESIDENCY:
                self._switch_seconds = max(self._switch_seconds, self._settings.swap_seconds)
                self._shares.set_quantum(SWITCHES_APART * self._switch_seconds)
            self._observer.adapted(adaptation)
