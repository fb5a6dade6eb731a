"""Rows of *Service* about what went otherwise than planned, and what generations cost."""

from __future__ import annotations

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import BAD, LOW, WARN, YES_IS_A_WARNING, YES_IS_GOOD, Unit, graph, heatmap, timeline
from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m


def fallbacks() -> Row:
    """Returns the row of departures from plans."""
    return Row(
        title="Fallbacks and state",
        panels=[
            graph(
                "Fallbacks, by reason",
                "Images per second made by departing from the plan, such as the base's image where the refiner failed.",
                Unit.PER_SECOND,
                (q.rate(m.FALLBACKS, by="from, to, reason"), "{{from}}→{{to}} {{reason}}"),
                stack=True,
                alerts=["FallbackRate", "RefinerDegraded"],
            ),
            graph(
                "Fallbacks",
                "Share of the delivered generations that departed from their plan.",
                Unit.RATIO,
                (measures.FALLBACK_RATIO, "degraded"),
                most=1,
                thresholds=((0.01, WARN), (0.05, BAD)),
                alerts=["FallbackRate"],
            ),
            timeline(
                "Missing features",
                " ".join(f"{feature}: {text}." for feature, text in closed_sets.DEGRADED_FEATURES.items()),
                (q.total(m.DEGRADED, by="instance, feature", of="max"), "{{feature}} {{instance}}"),
                states=YES_IS_A_WARNING,
                width=8,
                alerts=["RefinerDegraded", "FeatureDegraded"],
            ),
            timeline(
                "Taking generations",
                "Servers that are loaded, warm and not draining. A gap: no scrape.",
                (q.total(m.SERVING, by="instance", of="max"), "{{instance}}"),
                states=YES_IS_GOOD,
                height=LOW,
                alerts=["NotServing", "Down"],
            ),
            timeline(
                "Shutting down",
                "Servers that end what runs and refuse the rest.",
                (q.total(m.DRAINING, by="instance", of="max"), "{{instance}}"),
                states=YES_IS_A_WARNING,
                height=LOW,
                alerts=["DrainingTooLong"],
            ),
            graph(
                "Given up, by feature",
                "Times that a server gave up more of a feature to go on, such as half of a batch's rows.",
                Unit.COUNT,
                (q.increase(m.ADAPTATIONS, by="instance, feature"), "{{feature}} {{instance}}"),
                height=LOW,
                alerts=["FeatureDegraded"],
            ),
        ],
    )


def stopped() -> Row:
    """Returns the row of what was stopped, how fast, and what that wasted."""
    return Row(
        title="Cancelled and wasted",
        panels=[
            graph(
                "Cancelled, by stage",
                "Generations per second stopped by their caller, by the stage they were in.",
                Unit.REQUESTS_PER_SECOND,
                (q.rate(m.CANCELLED, by="stage"), "{{stage}}"),
                stack=True,
                alerts=["CancelSlow"],
            ),
            graph(
                "Cancel latency, quantiles",
                "From a cancel's arrival to the stop: a step at most, so it grows with a step's duration.",
                Unit.SECONDS,
                *measures.quantiles(m.CANCEL_LATENCY),
                alerts=["CancelSlow"],
            ),
            heatmap(
                "Cancel latency",
                "From a cancel's arrival to the stop.",
                Unit.SECONDS,
                q.buckets(m.CANCEL_LATENCY),
                alerts=["CancelSlow"],
            ),
            graph(
                "Device time wasted, by reason",
                "Device seconds per second whose result nobody got, because the generation was cancelled, late, or "
                "failed; 100 % is one device.",
                Unit.RATIO,
                (q.rate(m.WASTED, by="reason"), "{{reason}}"),
                stack=True,
                width=12,
                alerts=["CancelSlow"],
            ),
            graph(
                "Device time wasted",
                "Share of the devices' working time whose result nobody got.",
                Unit.RATIO,
                (measures.WASTED_RATIO, "wasted"),
                most=1,
                thresholds=((0.1, WARN), (0.3, BAD)),
                width=12,
                alerts=["CancelSlow"],
            ),
        ],
    )


def cost() -> Row:
    """Returns the row of what a delivered generation takes."""
    return Row(
        title="Cost of a generation",
        panels=[
            heatmap(
                "Device time",
                "Device time of a generation that delivered; of a batch, its share by rows.",
                Unit.SECONDS,
                q.buckets(m.GENERATION_DEVICE_SECONDS),
                width=6,
            ),
            graph(
                "Device time, quantiles",
                "Device time of a generation that delivered; of a batch, its share by rows.",
                Unit.SECONDS,
                *measures.quantiles(m.GENERATION_DEVICE_SECONDS),
                width=6,
            ),
            heatmap(
                "Energy",
                "The GPU's energy in the turns of a generation that delivered; of a batch, its share by rows.",
                Unit.JOULES,
                q.buckets(m.GENERATION_ENERGY),
                width=6,
            ),
            graph(
                "Energy, quantiles",
                "The GPU's energy in the turns of a generation that delivered; of a batch, its share by rows.",
                Unit.JOULES,
                *measures.quantiles(m.GENERATION_ENERGY),
                width=6,
            ),
        ],
    )
