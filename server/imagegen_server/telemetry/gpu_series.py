"""From readings to what a scrape shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from imagegen_server.telemetry import metrics as m

Family = CounterMetricFamily | GaugeMetricFamily

GPU_METRICS: Final = tuple(
    metric for metric in m.CATALOGUE if metric.collected and metric.name.startswith("imagegen_gpu_")
)
"""What a GPU collector shows."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Sample:
    """One series and its value."""

    metric: m.Metric
    labels: tuple[str, ...]
    """All of the metric's labels, in the catalogue's order."""
    value: float


def family(metric: m.Metric) -> Family:
    """Returns an empty family for a collected metric of the catalogue."""
    kind = CounterMetricFamily if metric.kind is m.Kind.COUNTER else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)


def families(samples: Iterable[Sample]) -> tuple[Family, ...]:
    """Returns the samples by metric. What has no sample has no family either: it is absent, not 0."""
    found: dict[m.Metric, Family] = {}
    for sample in samples:
        if sample.metric not in found:
            found[sample.metric] = family(sample.metric)
        found[sample.metric].add_metric(list(sample.labels), sample.value)
    return tuple(found.values())
