"""GPU readings from a library that works, refuses, vanishes and hangs; the allocator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from imagegen_server.telemetry import AllocatorCollector, GpuCollector, Metrics
from imagegen_server.telemetry.gpu import GpuError, GpuIdentity, GpuMemory, NoGpuError
from imagegen_server.telemetry.metrics import GPU_ERRORS

Value = Callable[..., float | None]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class ScriptedGpus:
    """A GpuLibrary that does what the test says. `trouble` maps a call to what it raises."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.used = 1000
        self.trouble: dict[str, Exception] = {}
        self.held = threading.Event()
        """Set: memory does not return."""
        self.waiting = threading.Event()
        """Set by the call that does not return."""
        self.release = threading.Event()
        self.reads = 0
        self.opened = 0
        self.closed = 0
        self.threads: set[str] = set()

    def _call(self, name: str) -> None:
        self.threads.add(threading.current_thread().name)
        if name in self.trouble:
            raise self.trouble[name]

    def open(self) -> None:
        self._call("open")
        self.opened += 1

    def devices(self) -> tuple[GpuIdentity, ...]:
        self._call("devices")
        return tuple(
            GpuIdentity(index=index, uuid=f"GPU-{index}", name="Card", driver="570", mig="disabled")
            for index in range(self.count)
        )

    def memory(self, index: int) -> GpuMemory:
        if self.held.is_set():
            self.waiting.set()
            self.release.wait()
        self._call("memory")
        self.reads += 1
        return GpuMemory(used=self.used + index, total=8000)

    def close(self) -> None:
        self.closed += 1


MakeCollector = Callable[[ScriptedGpus], GpuCollector]


@pytest.fixture
def clock() -> Clock:
    """The collector's clock."""
    return Clock()


@pytest.fixture
def start(registry: CollectorRegistry, metrics: Metrics, clock: Clock) -> Iterator[MakeCollector]:
    """Starts a registered collector that polls as fast as it can tell, and stops it afterwards."""
    started: list[tuple[GpuCollector, ScriptedGpus]] = []

    def make(library: ScriptedGpus) -> GpuCollector:
        collector = GpuCollector(library, metrics.count_gpu_error, interval=0.01, clock=clock)
        registry.register(collector)
        collector.start()
        started.append((collector, library))
        return collector

    yield make
    for collector, library in started:
        library.release.set()
        collector.stop(timeout=10)


def _until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread will do; the test's own timeout bounds it."""
    while not condition():
        time.sleep(0.002)


def test_readings_are_shown_and_followed(start: MakeCollector, value: Value) -> None:
    """Two GPUs are shown with identity and memory; a later reading replaces an earlier one."""
    library = ScriptedGpus(count=2)
    start(library)
    _until(lambda: value("imagegen_gpu_collector_up") == 1)
    info = {"uuid": "GPU-1", "name": "Card", "driver": "570", "mig": "disabled"}
    assert value("imagegen_gpu_info", gpu="1", **info) == 1
    assert value("imagegen_gpu_memory_used_bytes", gpu="0") == 1000
    assert value("imagegen_gpu_memory_used_bytes", gpu="1") == 1001
    assert value("imagegen_gpu_memory_total_bytes", gpu="1") == 8000
    library.used = 5000
    _until(lambda: value("imagegen_gpu_memory_used_bytes", gpu="0") == 5000)
    assert library.threads == {"gpu-collector"}


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_gpu_only_the_collectors_state_is_shown(start: MakeCollector, value: Value, count: int) -> None:
    """No driver, or a driver without GPUs: down, no readings, no error, and the thread ends by itself."""
    library = ScriptedGpus(count=count)
    if count:
        library.trouble["open"] = NoGpuError()
    collector = start(library)
    _until(lambda: library.closed == 1)
    collector.stop(timeout=10)
    assert value("imagegen_gpu_collector_up") == 0
    assert value("imagegen_gpu_memory_used_bytes", gpu="0") is None
    for call in ("init", "devices", "memory"):
        for error in GPU_ERRORS:
            assert value("imagegen_gpu_collector_errors_total", call=call, error=error) == 0


def test_a_reading_that_is_not_supported_is_absent_and_counted(start: MakeCollector, value: Value) -> None:
    """Memory that may not be read leaves the collector up, the identity shown, and no memory series."""
    library = ScriptedGpus()
    library.trouble["memory"] = GpuError("no_permission")
    start(library)
    _until(lambda: value("imagegen_gpu_collector_up") == 1)
    assert value("imagegen_gpu_memory_used_bytes", gpu="0") is None
    assert value("imagegen_gpu_memory_total_bytes", gpu="0") is None
    info = {"uuid": "GPU-0", "name": "Card", "driver": "570", "mig": "disabled"}
    assert value("imagegen_gpu_info", gpu="0", **info) == 1
    assert (value("imagegen_gpu_collector_errors_total", call="memory", error="no_permission") or 0) >= 1


def test_a_lost_gpu_takes_the_collector_down_and_it_comes_back(start: MakeCollector, value: Value) -> None:
    """A lost GPU is counted and its readings vanish; once it answers again they return over a new connection."""
    library = ScriptedGpus()
    start(library)
    _until(lambda: value("imagegen_gpu_collector_up") == 1)
    library.trouble["memory"] = GpuError("lost")
    _until(lambda: value("imagegen_gpu_collector_up") == 0)
    assert value("imagegen_gpu_memory_used_bytes", gpu="0") is None
    assert (value("imagegen_gpu_collector_errors_total", call="memory", error="lost") or 0) >= 1
    library.trouble.clear()
    _until(lambda: value("imagegen_gpu_collector_up") == 1)
    assert library.opened >= 2
    assert library.closed >= 1


@pytest.mark.parametrize(("call", "label"), [("open", "init"), ("devices", "devices")])
def test_a_failing_connection_is_counted_and_tried_again(
    start: MakeCollector, value: Value, call: str, label: str
) -> None:
    """Failures to connect and to list are counted under their call until they end."""
    library = ScriptedGpus()
    library.trouble[call] = GpuError("unknown")
    start(library)
    _until(lambda: (value("imagegen_gpu_collector_errors_total", call=label, error="unknown") or 0) >= 2)
    assert value("imagegen_gpu_collector_up") == 0
    library.trouble.clear()
    _until(lambda: value("imagegen_gpu_collector_up") == 1)
    assert library.reads >= 1


def test_a_hung_driver_blocks_no_scrape(start: MakeCollector, value: Value, clock: Clock) -> None:
    """While a call hangs, scrapes answer; old readings vanish, the hang counts once, and stopping does not wait."""
    library = ScriptedGpus()
    collector = start(library)
    _until(lambda: value("imagegen_gpu_collector_up") == 1)
    library.held.set()
    library.waiting.wait()
    clock.now += 60
    assert value("imagegen_gpu_collector_up") == 0
    assert value("imagegen_gpu_memory_used_bytes", gpu="0") is None
    assert value("imagegen_gpu_collector_up") == 0
    assert value("imagegen_gpu_collector_errors_total", call="memory", error="timeout") == 1
    collector.stop(timeout=0.01)
    library.release.set()


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
    names = ["allocated_bytes", "reserved_bytes", "allocated_peak_bytes", "inactive_split_bytes"]
    names += ["alloc_retries_total", "ooms_total"]
    assert [value(f"imagegen_torch_{name}") for name in names] == [1, 2, 3, 4, 5, 6]
    figures.clear()
    assert [value(f"imagegen_torch_{name}") for name in names] == [None] * 6
    assert value("imagegen_gpu_collector_errors_total", call="allocator", error="unknown") == 0


def test_an_allocator_that_raises_is_counted(registry: CollectorRegistry, metrics: Metrics, value: Value) -> None:
    """A failing reading leaves its series out, the rest of the scrape whole, and is counted."""

    def fail() -> dict[str, int]:
        raise RuntimeError("CUDA error")

    registry.register(AllocatorCollector(fail, metrics.count_gpu_error))
    assert value("imagegen_torch_allocated_bytes") is None
    assert value("imagegen_draining") == 0
    assert (value("imagegen_gpu_collector_errors_total", call="allocator", error="unknown") or 0) >= 1
