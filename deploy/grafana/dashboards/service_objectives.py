"""The row of *Service* about the service level objectives, as the burn-rate alerts see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import BAD, GOOD, WARN, Panel, Unit, graph, number


@dataclass(kw_only=True, frozen=True, slots=True)
class Objective:
    """What may go wrong, and how often. The rules in deploy/prometheus/rules say the same; a test compares them."""

    name: str
    """As in the alerts' label `slo`."""
    rule: str
    """Recording rule of the share that went wrong, without its window."""
    budget: float
    """Share that may go wrong, 0 to 1."""
    meaning: str
    alerts: tuple[str, ...]


OBJECTIVES: Final = (
    Objective(
        name="availability",
        rule="job:imagegen_failed_calls_per_calls:ratio_rate",
        budget=0.005,
        meaning="calls that failed through a fault of the service",
        alerts=("AvailabilityBurn1h", "AvailabilityBurn6h", "AvailabilityBurn1d", "AvailabilityBurn3d"),
    ),
    Objective(
        name="latency",
        rule="job_model:imagegen_slow_generations_per_generations:ratio_rate",
        budget=0.05,
        meaning="generations that took longer than 30 s",
        alerts=("LatencyBurn1h", "LatencyBurn6h", "LatencyBurn1d", "LatencyBurn3d"),
    ),
    Objective(
        name="saturation",
        rule="job:imagegen_refused_calls_per_calls:ratio_rate",
        budget=0.05,
        meaning="calls that were refused for lack of room",
        alerts=("SaturationBurn1d", "SaturationBurn3d"),
    ),
)
_WINDOWS: Final = ("5m", "1h", "6h", "3d")
_PAGE, _TICKET = 14.4, 1.0


def objectives() -> Row:
    """Returns the row of error budgets: what is left of them, and how fast they burn."""
    return Row(title="Objectives", panels=[*map(_left, OBJECTIVES), *map(_burn, OBJECTIVES)])


def _left(objective: Objective) -> Panel:
    wrong = q.aggregate(q.recorded(f"{objective.rule}3d"), of="max")
    return number(
        f"Budget left: {objective.name}",
        f"What is left of three days' budget of {objective.budget:.1%} for {objective.meaning}. Below 0: overspent.",
        Unit.RATIO,
        f"1 - {wrong} / {objective.budget}",
        width=8,
        thresholds=((-1000, BAD), (0, WARN), (0.25, GOOD)),
        decimals=0,
        alerts=objective.alerts,
    )


def _burn(objective: Objective) -> Panel:
    queries = [
        (f"{q.aggregate(q.recorded(objective.rule + window), of='max')} / {objective.budget}", f"over {window}")
        for window in _WINDOWS
    ]
    return graph(
        f"Burn rate: {objective.name}",
        f"How many times faster than allowed the budget for {objective.meaning} is spent. 1 spends it just in time; "
        "at 14.4 over an hour somebody is paged.",
        Unit.COUNT,
        *queries,
        thresholds=((_TICKET, WARN), (_PAGE, BAD)),
        alerts=objective.alerts,
    )
