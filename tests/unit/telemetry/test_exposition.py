"""The text form is the library's, byte for byte."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imagegen_server.telemetry.exposition import Exposition


@pytest.fixture
def without_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters and histograms without `_created` series, as the server has them."""
    monkeypatch.setattr("prometheus_client.metrics._use_created", False)


@pytest.mark.usefixtures("without_created")
def test_it_is_what_the_library_writes(registry: CollectorRegistry) -> None:
    """Types, escapes, numbers of every kind; again after they changed, when lines are remembered."""
    counter = Counter("a_total", 'One "line"\nand \\ another.', ["name", "also"], registry=registry)
    gauge = Gauge("b", "A gauge.", registry=registry)
    histogram = Histogram("c_seconds", "A histogram.", ["z", "a"], buckets=(0.1, 1, 1e9), registry=registry)
    written = Exposition(registry)
    for number, name in enumerate(("plain", 'quo"ted', "back\\slash", "new\nline", "")):
        counter.labels(name, "é漢").inc(number * 1.5)
        for value in (0, -0.0, 1, -2.5, 1e-9, 123456789.123, 1e22, math.inf, -math.inf, math.nan):
            gauge.set(value)
            histogram.labels(name, "x").observe(abs(value))
            assert written.text() == generate_latest(registry)


@pytest.mark.usefixtures("without_created")
def test_what_it_does_not_know_is_left_to_the_library(registry: CollectorRegistry) -> None:
    """A summary appears as the library writes it."""
    written = Exposition(registry)
    Counter("a_total", "A counter.", registry=registry).inc()
    assert written.text() == generate_latest(registry)
    Summary("b_seconds", "A summary.", registry=registry).observe(2)
    assert written.text() == generate_latest(registry)
    assert written.text() == generate_latest(registry)


def test_created_series_are_left_to_the_library(registry: CollectorRegistry) -> None:
    """A process that has them gets them as the library writes them."""
    Counter("a_total", "A counter.", registry=registry).inc()
    assert Exposition(registry).text() == generate_latest(registry)


class Timed(Collector):
    """Tells of a value with the time at which it was so."""

    def collect(self) -> Iterator[Metric]:
        """Yields it."""
        family = GaugeMetricFamily("b", "A gauge.")
        family.add_metric([], 1.0, timestamp=5)
        yield family


@pytest.mark.usefixtures("without_created")
def test_values_with_a_time_are_left_to_the_library(registry: CollectorRegistry) -> None:
    """Which writes it behind them."""
    registry.register(Timed())
    assert Exposition(registry).text() == generate_latest(registry)
