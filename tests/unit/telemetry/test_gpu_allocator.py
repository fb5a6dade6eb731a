"""torch's allocator."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from imagegen_server.telemetry import CATALOGUE, AllocatorCollector, Metrics

Value = Callable[..., float | None]


def test_the_allocators_figures(registry: CollectorRegistry, metrics: Metrics, value: Value) -> None:
    """Every figure is shown under its name; those that are missing have no series."""
    figures = {
        "allocated_bytes": 1,
        "reserved_bytes": 2,
        "allocated_peak_bytes": 3,
        "inactive_split_bytes": 4,
        "alloc_retries": 5,
        "ooms": 6,
    }
    registry.register(AllocatorCollector(lambda: figures, metrics.count_gpu_error))
    names = [metric.name for metric in CATALOGUE if metric.name.startswith("imagegen_torch_")]
    assert [value(name) for name in names] == [1, 2, 3, 4, 5, 6]
    del figures["ooms"]
    assert [value(name) for name in names] == [1, 2, 3, 4, 5, None]
    figures.clear()
    assert [value(name) for name in names] == [None] * 6
    assert value("imagegen_gpu_collector_errors_total", call="allocator", error="unknown") == 0


def test_an_allocator_that_raises_is_counted(registry: CollectorRegistry, metrics: Metrics, value: Value) -> None:
    """A failing reading leaves its series out, the rest of the scrape whole, and is counted."""

    def fail() -> dict[str, int]:
        raise RuntimeError("CUDA error")

    registry.register(AllocatorCollector(fail, metrics.count_gpu_error))
    assert value("imagegen_torch_allocated_bytes") is None
    assert value("imagegen_draining") == 0
    assert (value("imagegen_gpu_collector_errors_total", call="allocator", error="unknown") or 0) >= 1
