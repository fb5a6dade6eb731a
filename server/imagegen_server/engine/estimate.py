"""What a turn of the device costs, learned from the turns that ran."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from imagegen_server.core import LatentShape, Plan, Stage, StagePlan

_DECAY = 0.97
"""Weight of the past at each new observation: about the last 33 turns count."""

_FIXED_SHARE = 0.5
"""Part of a turn assumed not to depend on its rows while only one row count has been seen."""

_OUTLIER = 4.0
"""A turn this many times as slow as predicted counts as this much, unless the one before it was as slow: a single pause
of the machine must not make the next callers' deadlines look hopeless, and a change that lasts must be learned."""

_PRIOR_SECONDS = 1e-3
"""Seconds of each row of a guided job's turn of which nothing is known yet: before the warm-up, which measures one of
each stage. Orders work, and refuses nobody."""

_GUIDED_ROWS = 2
"""Rows of a guided job."""

PREPARING = 2
"""First turns of a row count that are believed only while nothing better is known: the first pays for what is lazy,
the second for the capture of a graph."""


@dataclass(slots=True)
class _Line:
    """An exponentially weighted least-squares line: seconds = fixed + slope * rows."""

    n: float = 0.0
    r: float = 0.0
    rr: float = 0.0
    t: float = 0.0
    rt: float = 0.0
    warm: bool = False
    """Whether it knows more than turns that prepared."""
    outlying: bool = False
    observed_at: float = -math.inf
    turns: dict[int, int] = field(default_factory=dict)
    """How many turns of each row count there were."""
    predictions: dict[int, float] = field(default_factory=dict)

    def observe(self, rows: int, seconds: float, now: float, prepared: bool) -> None:
        turns = self.turns[rows] = max(self.turns.get(rows, 0), PREPARING if prepared else 0) + 1
        preparing = turns <= PREPARING
        if preparing and self.warm:
            return
        if not self.warm:
            self.n = self.r = self.rr = self.t = self.rt = 0.0
        self.warm = not preparing
        most = _OUTLIER * self.predict(rows) if self.n else math.inf
        before, self.outlying = self.outlying, seconds > most
        if self.outlying and not before:
            seconds = most
        self.observed_at = now
        self.n = self.n * _DECAY + 1
        self.r = self.r * _DECAY + rows
        self.rr = self.rr * _DECAY + rows * rows
        self.t = self.t * _DECAY + seconds
        self.rt = self.rt * _DECAY + rows * seconds
        self.predictions.clear()

    def predict(self, rows: int) -> float:
        known = self.predictions.get(rows)
        if known is None:
            known = self.predictions[rows] = self._predict(rows)
        return known

    def _predict(self, rows: int) -> float:
        mean_rows, mean = self.r / self.n, self.t / self.n
        variance = self.rr / self.n - mean_rows * mean_rows
        if variance < 1e-6:
            return mean * _against(rows, mean_rows)
        slope = (self.rt / self.n - mean_rows * mean) / variance
        slope = min(max(slope, 0.0), mean / mean_rows)  # neither falling nor steeper than proportional
        return mean + slope * (rows - mean_rows)


def _against(rows: int, measured: float) -> float:
    """Returns how many times as long a turn of some rows takes as one of the only row count that was measured."""
    return _FIXED_SHARE + (1 - _FIXED_SHARE) * rows / measured


class CostModel:
    """Predicts the seconds of one evaluation from stage, latent shape and rows. Not thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[tuple[Stage, LatentShape], _Line] = {}
        self._borrowed: dict[tuple[Stage, LatentShape], tuple[_Line, float] | None] = {}

    def observe(
        self, stage: Stage, shape: LatentShape, rows: int, seconds: float, now: float, *, prepared: bool = False
    ) -> None:
        """Learns from one turn that took `seconds` and ended at `now`, a time of the engine's clock.

        Args:
            prepared: the device had run these rows before, and paid for what is only needed once.
        """
        line = self._lines.get((stage, shape))
        if line is None:
            line = self._lines[stage, shape] = _Line()
            self._borrowed.clear()
        line.observe(rows, seconds, now, prepared)

    def prepared(self, stage: Stage, shape: LatentShape, rows: int) -> bool:
        """Returns whether a turn of so many rows pays for nothing that is needed only once."""
        line = self._lines.get((stage, shape))
        return line is not None and line.turns.get(rows, 0) >= PREPARING

    def seconds(self, stage: Stage, shape: LatentShape, rows: int) -> float:
        """Returns the predicted seconds of one evaluation, above 0."""
        line = self._lines.get((stage, shape))
        if line is not None:
            return line.predict(rows)
        borrowed = self._borrow(stage, shape)
        if borrowed is None:
            return _PRIOR_SECONDS * _GUIDED_ROWS * _against(rows, _GUIDED_ROWS)
        return borrowed[0].predict(rows) * borrowed[1]

    def knows(self, plan: Plan) -> bool:
        """Returns whether every stage of the plan has been measured at some latent shape."""
        return all(self._borrow(planned.stage, plan.latent_shape) is not None for planned in plan.stages)

    def learned_at(self, plan: Plan, *, without: Stage | None) -> float:
        """Returns when the stage that makes up most of the plan's cost was last measured; minus infinity if never."""
        stages = [planned for planned in plan.stages if planned.stage is not without]
        most = max(stages, key=lambda planned: planned.evaluations * self._of(planned, plan))
        borrowed = self._borrow(most.stage, plan.latent_shape)
        return -math.inf if borrowed is None else borrowed[0].observed_at

    def plan_seconds(self, plan: Plan) -> float:
        """Returns the predicted device seconds of one image alone on the device."""
        return sum(planned.evaluations * self._of(planned, plan) for planned in plan.stages)

    def batching_gain(self, stage: Stage, shape: LatentShape, rows: int, budget: int) -> float:
        """Returns how many times faster jobs of `rows` rows advance in full batches than alone; at least 1."""
        jobs = max(budget // rows, 1)
        return max(jobs * self.seconds(stage, shape, rows) / self.seconds(stage, shape, jobs * rows), 1.0)

    def _of(self, planned: StagePlan, plan: Plan) -> float:
        return self.seconds(planned.stage, plan.latent_shape, planned.rows)

    def _borrow(self, stage: Stage, shape: LatentShape) -> tuple[_Line, float] | None:
        """Returns the line of the nearest measured shape and the ratio of the areas; None if there is none."""
        key = (stage, shape)
        if key not in self._borrowed:
            area = shape[0] * shape[1]
            measured = [
                (abs(h * w - area), line, area / (h * w)) for (s, (h, w)), line in self._lines.items() if s is stage
            ]
            nearest = min(measured, key=lambda m: m[0], default=None)
            self._borrowed[key] = None if nearest is None else (nearest[1], nearest[2])
        return self._borrowed[key]
