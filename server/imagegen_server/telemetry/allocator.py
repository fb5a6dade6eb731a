"""torch's allocator, read when it is scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.registry import Collector

from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.gpu_series import Family, family

ALLOCATOR_KEYS: Mapping[m.Metric, str] = {
    m.TORCH_ALLOCATED: "allocated_bytes",
    m.TORCH_RESERVED: "reserved_bytes",
    m.TORCH_ALLOCATED_PEAK: "allocated_peak_bytes",
    m.TORCH_INACTIVE_SPLIT: "inactive_split_bytes",
    m.TORCH_ALLOC_RETRIES: "alloc_retries",
    m.TORCH_OOMS: "ooms",
}
"""The names under which the figures come: the metrics' own without `imagegen_torch_` and `_total`."""


class AllocatorCollector(Collector):
    """Shows torch's allocator when it is scraped."""

    def __init__(self, read: Callable[[], Mapping[str, int]], count_error: Callable[[str, str], None]) -> None:
        """Prepares.

        Args:
            read: returns the allocator's figures under ALLOCATOR_KEYS; nothing without a GPU. Called from the threads
                of scrapes.
            count_error: hears when `read` raises; the series are absent then.
        """
        self._read = read
        self._count_error = count_error

    def describe(self) -> Iterator[Family]:
        """Yields the names, without reading anything."""
        for metric in ALLOCATOR_KEYS:
            yield family(metric)

    def collect(self) -> Iterator[Family]:
        """Yields what the allocator reports; a figure that it lacks is absent."""
        try:
            statistics = self._read()
        except Exception:  # noqa: BLE001 - whatever the device raises, the rest of the scrape must go on; it is counted
            self._count_error("allocator", "unknown")
            return
        for metric, key in ALLOCATOR_KEYS.items():
            if key in statistics:
                found = family(metric)
                found.add_metric([], statistics[key])
                yield found
