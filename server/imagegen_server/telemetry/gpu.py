"""GPU and allocator readings, taken apart from everything that must not wait.

NVML is polled on a thread of its own: when a driver hangs, that thread hangs, and a scrape still answers at once
with `collector_up` 0 and without readings. What a device does not support is an absent series and a counted error,
never 0.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from imagegen_server.telemetry import metrics as m

Family = CounterMetricFamily | GaugeMetricFamily
ErrorCounter = Callable[[str, str], None]
"""Hears the call and the error, of metrics.GPU_CALLS and metrics.GPU_ERRORS."""


class NoGpuError(Exception):
    """There is no GPU, or no driver for it."""


class GpuError(Exception):
    """A reading failed."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind
        """One of metrics.GPU_ERRORS."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GpuIdentity:
    """What does not change while the driver is loaded."""

    index: int
    uuid: str
    name: str
    driver: str
    mig: str
    """enabled, disabled or unsupported."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GpuMemory:
    """Device memory in bytes."""

    used: int
    """By all processes, the driver's own share included: total less used is free."""
    total: int


class GpuLibrary(Protocol):
    """Reads GPUs. Called from one thread; any call may block. Calls but `close` raise GpuError."""

    def open(self) -> None:
        """Connects to the driver. Raises NoGpuError if there is none."""
        ...

    def devices(self) -> tuple[GpuIdentity, ...]:
        """Returns the GPUs, none or more."""
        ...

    def memory(self, index: int) -> GpuMemory:
        """Reads a GPU's memory."""
        ...

    def close(self) -> None:
        """Disconnects; without effect if not connected. Raises nothing."""
        ...


@dataclass(kw_only=True, frozen=True, slots=True)
class _Snapshot:
    """The last poll that ended."""

    at: float
    gpus: tuple[tuple[GpuIdentity, GpuMemory | None], ...] = ()


class GpuCollector(Collector):
    """Polls the GPUs in the background and answers scrapes from the last poll."""

    def __init__(
        self,
        library: GpuLibrary,
        count_error: ErrorCounter,
        *,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares, and reads nothing before `start`.

        Args:
            library: where readings come from.
            count_error: hears every reading that failed.
            interval: seconds between polls, above 0. Readings older than three intervals are not shown.
            clock: seconds, monotonic.
        """
        self._library = library
        self._count_error = count_error
        self._interval = interval
        self._clock = clock
        self._snapshot: _Snapshot | None = None
        self._call = ("", clock())
        """The call that is under way and when it began; empty between calls."""
        self._reported: tuple[str, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-collector", daemon=True)

    def start(self) -> None:
        """Begins to poll."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Ends polling; a thread that hangs in the driver is left behind after `timeout` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def describe(self) -> Iterator[Family]:
        """Yields the names, without reading anything."""
        for metric in (m.GPU_COLLECTOR_UP, m.GPU_INFO, m.GPU_MEMORY_USED, m.GPU_MEMORY_TOTAL):
            yield family(metric)

    def collect(self) -> Iterator[Family]:
        """Yields the last readings, if they are fresh."""
        snapshot = self._snapshot
        self._report_hang()
        fresh = snapshot is not None and self._clock() - snapshot.at <= 3 * self._interval
        up = family(m.GPU_COLLECTOR_UP)
        up.add_metric([], int(fresh))
        yield up
        if snapshot is None or not fresh:
            return
        info, used, total = family(m.GPU_INFO), family(m.GPU_MEMORY_USED), family(m.GPU_MEMORY_TOTAL)
        for gpu, memory in snapshot.gpus:
            label = str(gpu.index)
            info.add_metric([label, gpu.uuid, gpu.name, gpu.driver, gpu.mig], 1)
            if memory is not None:
                used.add_metric([label], memory.used)
                total.add_metric([label], memory.total)
        yield from (info, used, total)

    def _report_hang(self) -> None:
        """Counts a call that has been under way for three intervals, once."""
        call = self._call
        if call[0] and call != self._reported and self._clock() - call[1] > 3 * self._interval:
            self._reported = call
            self._count_error(call[0], "timeout")

    def _run(self) -> None:
        """Polls until stopped, and connects anew after a failure. Ends at once where there is no GPU."""
        while not self._stop.is_set():
            try:
                self._enter("init")
                self._library.open()
                self._enter("devices")
                devices = self._library.devices()
                self._enter("")
                if not devices:
                    return
                self._poll(devices)
            except NoGpuError:
                return
            except GpuError as error:
                self._count_error(self._call[0], error.kind)
                self._snapshot = None
            finally:
                self._enter("")
                self._library.close()
            self._stop.wait(self._interval)

    def _poll(self, devices: tuple[GpuIdentity, ...]) -> None:
        """Reads the GPUs again and again; raises GpuError once a GPU is lost."""
        while not self._stop.is_set():
            gpus = tuple((gpu, self._memory(gpu.index)) for gpu in devices)
            self._snapshot = _Snapshot(at=self._clock(), gpus=gpus)
            self._stop.wait(self._interval)

    def _memory(self, index: int) -> GpuMemory | None:
        """Returns a GPU's memory; None, and a counted error, if it cannot be read."""
        self._enter("memory")
        try:
            memory = self._library.memory(index)
        except GpuError as error:
            if error.kind == "lost":
                raise
            self._count_error("memory", error.kind)
            memory = None
        self._enter("")
        return memory

    def _enter(self, call: str) -> None:
        self._call = (call, self._clock())


_ALLOCATOR_KEYS: Mapping[m.Metric, str] = {
    m.TORCH_ALLOCATED: "allocated_bytes",
    m.TORCH_RESERVED: "reserved_bytes",
    m.TORCH_ALLOCATED_PEAK: "allocated_peak_bytes",
    m.TORCH_INACTIVE_SPLIT: "inactive_split_bytes",
    m.TORCH_ALLOC_RETRIES: "alloc_retries",
    m.TORCH_OOMS: "ooms",
}


class AllocatorCollector(Collector):
    """Shows torch's allocator when it is scraped."""

    def __init__(self, read: Callable[[], Mapping[str, int]], count_error: ErrorCounter) -> None:
        """Prepares.

        Args:
            read: returns the allocator's figures under the metrics' names without `imagegen_torch_` and `_total`;
                nothing without a GPU. Called from the threads of scrapes.
            count_error: hears when `read` raises; the series are absent then.
        """
        self._read = read
        self._count_error = count_error

    def describe(self) -> Iterator[Family]:
        """Yields the names, without reading anything."""
        for metric in _ALLOCATOR_KEYS:
            yield family(metric)

    def collect(self) -> Iterator[Family]:
        """Yields what the allocator reports; a figure that it lacks is absent."""
        try:
            statistics = self._read()
        except Exception:  # noqa: BLE001 - whatever the device raises, the rest of the scrape must go on; it is counted
            self._count_error("allocator", "unknown")
            return
        for metric, key in _ALLOCATOR_KEYS.items():
            if key in statistics:
                found = family(metric)
                found.add_metric([], statistics[key])
                yield found


def family(metric: m.Metric) -> Family:
    """Returns an empty family for a collected metric of the catalogue."""
    kind = CounterMetricFamily if metric.kind is m.Kind.COUNTER else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)
