"""The first rows of *Service*: its state at a glance, and generations."""

from __future__ import annotations

from typing import Final

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import (
    BAD,
    GOOD,
    WARN,
    YES_IS_A_WARNING,
    YES_IS_BAD,
    YES_IS_GOOD,
    Panel,
    Unit,
    graph,
    heatmap,
    number,
)
from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m

OUTCOME_COLORS: Final = {
    "ok": "green",
    "degraded": "yellow",
    "cancelled": "blue",
    "deadline": "orange",
    "rejected": "purple",
    "invalid": "text",
    "error": "red",
}


def now() -> Row:
    """Returns the row that tells at a glance whether all is well."""
    return Row(title="Now", panels=[*_states(), *_figures()])


def _states() -> list[Panel]:
    return [
        number(
            "Up",
            "Share of the servers that answer a scrape.",
            Unit.RATIO,
            f"sum({q.select('up')}) / count({q.select('up')})",
            thresholds=((0, BAD), (0.99, GOOD)),
            alerts=["Down"],
        ),
        number(
            "All serving",
            "Whether every server takes generations: it answers, is loaded, warm and not draining.",
            Unit.STATE,
            measures.SERVING,
            states=YES_IS_GOOD,
            alerts=["NotServing"],
        ),
        number(
            "Draining",
            "Whether a server is shutting down: it ends what runs and refuses the rest.",
            Unit.STATE,
            q.total(m.DRAINING, of="max"),
            states=YES_IS_A_WARNING,
            alerts=["DrainingTooLong"],
        ),
        number(
            "Degraded",
            f"Whether a server works without one of: {', '.join(closed_sets.DEGRADED_FEATURES)}. "
            "Missing features tells which.",
            Unit.STATE,
            q.total(m.DEGRADED, of="max"),
            states=YES_IS_A_WARNING,
            alerts=["RefinerDegraded", "FeatureDegraded"],
        ),
        number(
            "Stuck",
            "Whether a server held generations that are not only being read for two minutes and executed no step.",
            Unit.STATE,
            measures.STUCK,
            states=YES_IS_BAD,
            alerts=["StuckGeneration"],
        ),
        number(
            "Queue taken",
            "Share of the places for waiting generations that are taken, where it is most. At 100 % callers are "
            "refused.",
            Unit.RATIO,
            measures.QUEUE_SATURATION,
            thresholds=((0.7, WARN), (0.9, BAD)),
            decimals=0,
            alerts=["QueueSaturated"],
        ),
        number(
            "Fallbacks",
            "Share of the delivered generations that departed from their plan: mostly a refiner that failed.",
            Unit.RATIO,
            measures.FALLBACK_RATIO,
            thresholds=((0.01, WARN), (0.05, BAD)),
            alerts=["FallbackRate", "RefinerDegraded"],
        ),
        number(
            "Alerts firing",
            "ImageGen's alerts that fire now, whatever the variables say. They are marked on the graphs in red.",
            Unit.NUMBER,
            'count(ALERTS{alertname=~"ImageGen.*",alertstate="firing"}) or vector(0)',
            thresholds=((1, BAD),),
        ),
    ]


def _figures() -> list[Panel]:
    return [
        number(
            "Delivered",
            "Generations per second whose images were delivered, degraded ones included.",
            Unit.REQUESTS_PER_SECOND,
            q.rate(m.REQUEST_DURATION, measures.DELIVERED),
        ),
        number(
            "Failed",
            "Share of the ended generations that failed or ran past their deadline. Cancels and refusals do not count.",
            Unit.RATIO,
            measures.FAILED_RATIO,
            thresholds=((0.001, WARN), (0.01, BAD)),
        ),
        number(
            "Refused",
            "Generations per second refused before any work.",
            Unit.REQUESTS_PER_SECOND,
            q.rate(m.REJECTED),
            alerts=["RejectRate"],
        ),
        number(
            "Duration p95",
            "95 % of the delivered generations took at most this long, from admission to the end.",
            Unit.SECONDS,
            q.quantile(0.95, m.REQUEST_DURATION, measures.DELIVERED),
            alerts=["StageSlow"],
        ),
        number(
            "First progress p95",
            "95 % of the generations executed their first step within this time.",
            Unit.SECONDS,
            q.quantile(0.95, m.FIRST_PROGRESS),
            alerts=["QueueSaturated"],
        ),
        number(
            "In flight",
            "Generations admitted and not ended, the waiting ones included.",
            Unit.NUMBER,
            q.total(m.IN_FLIGHT),
        ),
        number(
            "Steps",
            "Denoising steps per second, summed over images.",
            Unit.PER_SECOND,
            q.rate(m.STAGE_STEPS),
            alerts=["StuckGeneration"],
        ),
        number(
            "Device wasted",
            "Share of the device's time whose result nobody got: cancelled, late or failed work.",
            Unit.RATIO,
            measures.WASTED_RATIO,
            thresholds=((0.1, WARN), (0.3, BAD)),
        ),
    ]


def generations() -> Row:
    """Returns the row of what became of generations and how long they took."""
    return Row(
        title="Generations",
        panels=[
            graph(
                "Ended, by outcome",
                "Generations per second. degraded: an image was made with a fallback. rejected: refused at admission. "
                "invalid: the request broke the contract.",
                Unit.REQUESTS_PER_SECOND,
                (q.rate(m.REQUEST_DURATION, by="outcome"), "{{outcome}}"),
                stack=True,
                colors=OUTCOME_COLORS,
                alerts=["RejectRate", "FallbackRate"],
            ),
            heatmap(
                "Duration",
                "How long delivered generations took, from admission to the end. A second band is another kind of "
                "request, or a queue.",
                Unit.SECONDS,
                q.buckets(m.REQUEST_DURATION, measures.DELIVERED),
                alerts=["StageSlow"],
            ),
            graph(
                "Duration, quantiles",
                "How long delivered generations took, from admission to the end.",
                Unit.SECONDS,
                *measures.quantiles(m.REQUEST_DURATION, measures.DELIVERED),
                alerts=["StageSlow"],
            ),
            graph(
                "In flight",
                "Generations admitted and not ended, those of them that wait for the device, and those that it is done "
                "with. Waiting while nothing but deliveries is in flight: slow readers hold all places.",
                Unit.COUNT,
                (q.total(m.IN_FLIGHT), "in flight"),
                (q.total(m.QUEUED), "waiting"),
                (q.total(m.DELIVERING), "being delivered"),
                alerts=["StuckGeneration", "QueueSaturated"],
            ),
            graph(
                "First progress, quantiles",
                "From admission to the first executed denoising step: what a caller waits before anything moves.",
                Unit.SECONDS,
                *measures.quantiles(m.FIRST_PROGRESS),
                alerts=["QueueSaturated"],
            ),
            graph(
                "Failed",
                "Share of the ended generations that failed or ran past their deadline. Cancels and refusals do not "
                "count.",
                Unit.RATIO,
                (measures.FAILED_RATIO, "failed"),
            ),
        ],
    )
