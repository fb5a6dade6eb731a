"""Who runs next: pure functions of numbers. No tensor, no clock, no lock.

Every generation has a weight: the fourth power of its age by the square root of the device seconds it still needs. So
short work comes first among those that have waited alike, and nothing starves. At each turn the batch whose jobs have
the greatest summed weight per second of device time runs. Where batching is free that favours full batches; where a
second row costs as much as the first it is shortest remaining work first. The inverse itself (Smith's rule: W. E.
Smith, "Various optimizers for single-stage production", 1956) breaks batches apart too eagerly; docs/decisions/0002
has the comparison.

A batch of which its members gain too little is cut, unless so many wait that any gain counts: nobody is to wait longer
in the mean than if generations were served one after the other.

A refiner batch waits for jobs that are about to leave the base if that saves more device time than it costs.

Text is encoded before anything else: it is short against a denoising stage, bounded by the generations that may run at
once, and lets a newcomer join the others' batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from imagegen_server.core import LatentShape, Priority, Stage

BATCH_PRIORITY_WEIGHT = 0.01
"""Weight of a batch-priority generation against an interactive one that waited as long; one that waited 3.2 times as
long has the same."""

LEAST_SECONDS = 1e-4
"""Ages, remaining work and costs below this count as this much, so that no weight is infinite and none is 0."""

_AS_GOOD = 1 + 1e-6
"""A mean that is this much longer is as good: where one row count was measured, the estimate makes them equal but for
rounding."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Candidate:
    """A job that could run one evaluation now."""

    key: int
    """Names the job; unique among candidates."""
    generation: int
    """Names its generation."""
    stage: Stage
    shape: LatentShape
    rows: int
    """Rows that one evaluation takes."""
    weight: float
    """From `weight()`."""
    alone: bool
    """Must not share a batch."""
    evaluations_left: int
    """Evaluations left in this stage, at least 1."""
    next_evaluations: int = 0
    """Evaluations of the refiner that follow this stage; 0 if none do."""
    next_rows: int = 0
    """Rows that each of them takes."""
    remaining: float = 0.0
    """Device seconds that its generation still needs."""
    slack: float = math.inf
    """Seconds that its generation can wait and still end in time."""


def weight(*, remaining: float, age: float, priority: Priority) -> float:
    """Returns the claim of a generation on the device; its unit means nothing.

    Args:
        remaining: device seconds it still needs, at least 0.
        age: seconds since its admission, at least 0. The claim grows with its fourth power, so that what is ten times
            as long passes a stream of short work once it has waited a third longer than the oldest of that.
        priority: batch priority scales the claim down, never to 0.
    """
    scale = BATCH_PRIORITY_WEIGHT if priority is Priority.BATCH else 1.0
    return scale * max(age, LEAST_SECONDS) ** 4 / math.sqrt(max(remaining, LEAST_SECONDS))


@dataclass(frozen=True, slots=True)
class Batching:
    """How jobs are put together for a device."""

    seconds: Callable[[Stage, LatentShape, int], float]
    """Predicted duration of an evaluation, from stage, latent shape and rows."""
    row_budget: Callable[[Stage, LatentShape], int]
    """Most rows of a batch in a stage at a latent shape; a single job may exceed it."""
    siblings_apart: bool = False
    """No batch consists of several images of one generation and nothing else."""

    def choose(
        self,
        candidates: Sequence[Candidate],
        *,
        resident: Stage | None = None,
        switch_seconds: float = 0.0,
        crowd: float,
    ) -> tuple[int, ...]:
        """Returns the keys of the jobs that run next, of one stage and one latent shape; empty without candidates.

        Args:
            candidates: jobs that could run; in text_encode, all jobs of a generation.
            resident: the step stage whose model is on the device, when they swap.
            switch_seconds: what it takes to swap; spread over the evaluations that the batch can run before it ends.
            crowd: generations that are present, above 0, with those that will have come before the device is idle
                counted twice. Few share a batch only if it gains so much that they end no later in the mean than one
                after the other; with many, any gain will do.
        """
        best: Sequence[Candidate] = ()
        best_index = (False, -1.0)
        for full in self._fullest(candidates):
            batch = full if switch_seconds else self._worth_sharing(full, crowd)
            leader = batch[0]
            cost = self._cost(batch)
            if switch_seconds and resident is not None and leader.stage is not resident:
                cost += switch_seconds / min(c.evaluations_left for c in batch)
            index = (leader.stage is Stage.TEXT_ENCODE, sum(c.weight for c in batch) / max(cost, LEAST_SECONDS))
            if index > best_index:
                best, best_index = batch, index
        if best and not switch_seconds:
            found = self._stragglers(best, self._behind(best, candidates))
            if found:
                joined = [*best, *(replace(c, stage=Stage.REFINER, rows=c.next_rows) for c in found)]
                if len(self._worth_sharing(joined, crowd)) == len(joined):
                    best = found
        return tuple(c.key for c in best)

    def _fullest(self, candidates: Iterable[Candidate]) -> Iterable[Sequence[Candidate]]:
        """Yields the fullest batch of every group of jobs that may share one, heaviest jobs first."""
        groups: dict[tuple[object, ...], list[Candidate]] = {}
        for candidate in candidates:
            groups.setdefault(_group(candidate), []).append(candidate)
        for group in groups.values():
            if len(group) == 1 or group[0].stage is Stage.TEXT_ENCODE:
                yield group
                continue
            group.sort(key=lambda c: (-c.weight, c.key))
            rows = self.row_budget(group[0].stage, group[0].shape)
            batch = _fill(group, rows)
            if self.siblings_apart and len({c.generation for c in batch}) == 1:
                strangers = [c for c in group if c.generation != batch[0].generation]
                batch = _fill([batch[0], *strangers], rows)
            yield batch

    def _worth_sharing(self, batch: Sequence[Candidate], crowd: float) -> Sequence[Candidate]:
        """Returns as much of a batch, heaviest first, as ends generations no later in the mean than one by one.

        If m at a time of n equal generations share an evaluation, which takes c(m), they end after c(m) (n / m + 1) / 2
        in the mean, by evaluation, and o that come behind them begin after c(m) n / m. So sharing is no loss to all of
        them as long as c(m) (1 + w / m) is at most c(1) (1 + w), with the crowd w = n + 2 o.
        """
        own: dict[int, list[Candidate]] = {}
        for candidate in batch:
            own.setdefault(candidate.generation, []).append(candidate)
        generations = list(own.values())
        if len(generations) == 1 or _is_urgent(generations):
            return batch
        cost = self._cost
        apart = [sum(cost([c]) for c in jobs) if self.siblings_apart else cost(jobs) for jobs in generations]
        for sharing in range(len(generations), 1, -1):
            part = [c for jobs in generations[:sharing] for c in jobs]
            one = sum(apart[:sharing]) / sharing
            if cost(part) * (1 + crowd / sharing) <= one * (1 + crowd) * _AS_GOOD:
                return part
        return generations[0][:1] if self.siblings_apart else generations[0]

    def _behind(self, batch: Sequence[Candidate], candidates: Iterable[Candidate]) -> Sequence[Candidate]:
        """Returns the jobs still in the base that could join a refiner batch, the nearest first."""
        leader = batch[0]
        if leader.stage is not Stage.REFINER or leader.alone:
            return ()
        found = [
            c
            for c in candidates
            if c.stage is Stage.BASE and c.shape == leader.shape and c.next_evaluations and not c.alone
        ]
        found.sort(key=lambda c: (c.evaluations_left, c.key))
        if self.siblings_apart:
            first_of = {c.generation: c for c in reversed(found)}
            found = [c for c in found if first_of[c.generation] is c and c.generation != leader.generation]
        return found

    def _stragglers(self, batch: Sequence[Candidate], behind: Sequence[Candidate]) -> Sequence[Candidate]:
        """Returns those of the jobs behind that a refiner batch should wait for; empty if it should not.

        Waiting costs the batch the time in which they catch up. It saves device time by every refiner evaluation that
        then runs once for all instead of twice. The most jobs for which it saves more than it costs are chosen.
        """
        leader = batch[0]
        stage, shape, rows = leader.stage, leader.shape, sum(c.rows for c in batch)
        room, left = self.row_budget(stage, shape) - rows, min(c.evaluations_left for c in batch)
        worth = 0
        rows_behind = next_rows = 0
        for count, candidate in enumerate(behind, start=1):
            rows_behind += candidate.rows
            next_rows += candidate.next_rows
            if next_rows > room or rows_behind > self.row_budget(Stage.BASE, shape):
                break
            shared = min(left, *(c.next_evaluations for c in behind[:count]))
            apart = self.seconds(stage, shape, rows) + self.seconds(stage, shape, next_rows)
            saved = shared * (apart - self.seconds(stage, shape, rows + next_rows))
            if saved > candidate.evaluations_left * self.seconds(Stage.BASE, shape, rows_behind):
                worth = count
        return behind[:worth]

    def _cost(self, batch: Sequence[Candidate]) -> float:
        """Returns the predicted seconds of an evaluation for all jobs of a batch."""
        return self.seconds(batch[0].stage, batch[0].shape, sum(c.rows for c in batch))


def _is_urgent(generations: Sequence[Sequence[Candidate]]) -> bool:
    """Returns whether one of them would miss its deadline if each waited for those before it."""
    waited = 0.0
    for first, *_ in generations:
        if 0 <= first.slack < waited:
            return True
        waited += first.remaining
    return False


def _fill(candidates: Sequence[Candidate], rows: int) -> list[Candidate]:
    """Returns the first candidate and those after it that fit into the rows."""
    batch, room = [candidates[0]], rows - candidates[0].rows
    for candidate in candidates[1:]:
        if candidate.rows <= room:
            batch.append(candidate)
            room -= candidate.rows
    return batch


def _group(candidate: Candidate) -> tuple[object, ...]:
    """Returns what jobs must have in common to share a batch."""
    if candidate.stage is Stage.TEXT_ENCODE:
        return (candidate.stage, candidate.generation)
    if candidate.alone or candidate.stage is Stage.VAE_DECODE:
        return (candidate.stage, candidate.key)
    return (candidate.stage, candidate.shape)
