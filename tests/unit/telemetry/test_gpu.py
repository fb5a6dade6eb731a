"""The collector's thread over a driver that works, vanishes and hangs."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Protocol

import pynvml
import pytest
from prometheus_client import CollectorRegistry

from imagegen_server.telemetry import GpuCollector, Metrics, MetricsServer, Nvml
from imagegen_server.telemetry.gpu_series import GPU_METRICS
from imagegen_server.telemetry.metrics import GPU_CALLS, GPU_ERRORS
from support.clock import Clock
from support.fake_nvml import Card, FakeNvml
from support.waiting import eventually

Value = Callable[..., float | None]


INSTANCE = "GPU-instance"
"""The UUID of an instance, which no GPU has: those that are divided are read."""


class MakeCollector(Protocol):
    """Starts a collector over a driver, for the GPU with a UUID or the first one."""

    def __call__(self, module: FakeNvml, uuid: str = "") -> GpuCollector: ...


@pytest.fixture
def clock() -> Clock:
    """The collector's clock."""
    return Clock(100.0)


@pytest.fixture
def start(registry: CollectorRegistry, metrics: Metrics, clock: Clock) -> Iterator[MakeCollector]:
    """Starts a registered collector that polls as fast as it can tell, and stops it afterwards."""
    started: list[tuple[GpuCollector, FakeNvml]] = []

    def make(module: FakeNvml, uuid: str = "") -> GpuCollector:
        collector = GpuCollector(Nvml(module), metrics.count_gpu_error, interval=0.01, clock=clock)
        registry.register(collector)
        collector.start(uuid)
        started.append((collector, module))
        return collector

    yield make
    for collector, module in started:
        module.release.set()
        collector.stop(timeout=10)


def test_readings_are_shown_and_followed(start: MakeCollector, value: Value) -> None:
    """The GPUs of an instance are shown with identity and readings; a later reading replaces an earlier one."""
    first, second = Card(uuid="GPU-a", mig=1), Card(uuid="GPU-b", mig=1, name="Other", used=7_000)
    start(FakeNvml(first, second), INSTANCE)
    eventually(lambda: value("imagegen_gpu_collector_up") == 1)
    info = {"uuid": "GPU-b", "name": "Other", "driver": "570.1", "mig": "enabled"}
    assert value("imagegen_gpu_info", gpu="1", **info) == 1
    assert value("imagegen_gpu_memory_used_bytes", gpu="0") == 5000
    assert value("imagegen_gpu_memory_used_bytes", gpu="1") == 7000
    assert value("imagegen_gpu_clock_hertz", gpu="1", clock="sm") == 1.7e9
    assert value("imagegen_gpu_ecc_errors_total", gpu="1", type="uncorrected") == 0
    assert value("imagegen_gpu_throttle_seconds_total", gpu="0", reason="thermal") == 0
    assert value("imagegen_gpu_xid_errors_total", gpu="0", xid="79") == 0
    first.used = 6_000
    first.millijoules += 1_500
    eventually(lambda: value("imagegen_gpu_memory_used_bytes", gpu="0") == 6000)
    eventually(lambda: value("imagegen_gpu_energy_joules_total", gpu="0") == 1.5)


def test_the_names_are_known_before_anything_is_read(metrics: Metrics) -> None:
    """Every metric of the GPU is described, so that a second collector cannot be registered beside the first."""
    collector = GpuCollector(Nvml(FakeNvml()), metrics.count_gpu_error)
    assert {f"{family.name}{'_total' * (family.type == 'counter')}" for family in collector.describe()} == {
        metric.name for metric in GPU_METRICS
    }
    metrics.registry.register(collector)
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.registry.register(GpuCollector(Nvml(FakeNvml()), metrics.count_gpu_error))


@pytest.mark.parametrize("status", [None, pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_a_gpu_only_the_collectors_state_is_shown(
    start: MakeCollector, value: Value, clock: Clock, status: int | None
) -> None:
    """No driver, or a driver without GPUs: down, no readings, no error, and the thread ends by itself."""
    module = FakeNvml()
    if status is not None:
        module.fail["nvmlInit"] = status
    collector = start(module)
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "gpu-collector"])
    collector.stop()
    assert module.calls.count("nvmlInit") == 1
    clock.now += 1000  # long after the last call
    assert value("imagegen_gpu_collector_up") == 0
    assert value("imagegen_gpu_memory_used_bytes", gpu="0") is None
    assert collector.energy_joules() is None
    for call in GPU_CALLS:
        for error in GPU_ERRORS:
            assert value("imagegen_gpu_collector_errors_total", call=call, error=error) == 0


def test_a_lost_gpu_takes_the_collector_down_and_it_comes_back(start: MakeCollector, value: Value) -> None:
    """The only GPU is lost: down, not well, no readings; once it answers they return over a new connection."""
    card = Card(uuid="GPU-x")
    module = FakeNvml(card)
    start(module)
    eventually(lambda: value("imagegen_gpu_collector_up") == 1)
    card.lost = True
    eventually(lambda: value("imagegen_gpu_collector_up") == 0)
    assert value("imagegen_gpu_memory_used_bytes", gpu="0") is None
    assert value("imagegen_gpu_health", gpu="0") == 0
    assert value("imagegen_gpu_collector_errors_total", call="power", error="lost") == 1
    eventually(lambda: module.opened >= 3)
    card.lost = False
    eventually(lambda: value("imagegen_gpu_collector_up") == 1)
    assert value("imagegen_gpu_health", gpu="0") == 1
    eventually(lambda: module.closed == module.opened - 1)


def test_another_gpu_is_shown_while_one_is_lost(start: MakeCollector, value: Value) -> None:
    """The collector stays up, and the GPU that answers is followed over the attempts to reach the other."""
    lost, other = Card(uuid="GPU-a", mig=1), Card(uuid="GPU-b", mig=1)
    module = FakeNvml(lost, other)
    start(module, INSTANCE)
    eventually(lambda: value("imagegen_gpu_health", gpu="0") == 1)
    lost.lost = True
    eventually(lambda: value("imagegen_gpu_health", gpu="0") == 0)
    eventually(lambda: module.opened >= 3)
    other.temperature = 77
    eventually(lambda: value("imagegen_gpu_temperature_celsius", gpu="1") == 77)
    assert value("imagegen_gpu_collector_up") == 1
    assert value("imagegen_gpu_temperature_celsius", gpu="0") is None
    assert value("imagegen_gpu_health", gpu="1") == 1


def test_a_neighbours_gpu_is_none_of_ours(start: MakeCollector, value: Value) -> None:
    """Of a GPU that another process uses there is no reading, no health, no energy and no error, lost or not."""
    failing = {"nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_UNKNOWN}
    neighbours, ours = Card(uuid="GPU-a", used=9_000, fail=failing), Card(uuid="GPU-b", used=1_000)
    module = FakeNvml(neighbours, ours)
    collector = start(module, "GPU-b")
    eventually(lambda: value("imagegen_gpu_collector_up") == 1)
    eventually(lambda: collector.energy_joules() is not None)
    assert value("imagegen_gpu_memory_used_bytes", gpu="1") == 1000
    neighbours.lost = True
    ours.used = 2_000
    eventually(lambda: value("imagegen_gpu_memory_used_bytes", gpu="1") == 2000)
    for name in ("health", "memory_used_bytes", "energy_joules_total", "utilization_ratio"):
        assert value(f"imagegen_gpu_{name}", gpu="0") is None
    assert value("imagegen_gpu_collector_up") == 1
    assert value("imagegen_gpu_collector_errors_total", call="power", error="unknown") == 0
    assert value("imagegen_gpu_collector_errors_total", call="power", error="lost") == 0
    assert module.opened == 1, "a neighbour's loss is no reason to connect anew"


def test_attempts_to_reach_a_lost_gpu_become_rare(start: MakeCollector, value: Value) -> None:
    """The polls between two connections double, up to a bound, while a GPU stays lost."""
    lost, other = Card(uuid="GPU-a", mig=1), Card(uuid="GPU-b", mig=1)
    module = FakeNvml(lost, other)
    start(module, INSTANCE)
    eventually(lambda: value("imagegen_gpu_collector_up") == 1)
    lost.lost = True
    begin = len(module.calls)
    eventually(lambda: module.opened >= 8)
    polls = [0]
    for call in module.calls[begin:]:
        if call == "nvmlInit":
            polls.append(0)
        elif call == "nvmlDeviceGetMemoryInfo":  # once in each poll, of the other GPU
            polls[-1] += 1
    assert polls[1:6] == [2, 4, 8, 12, 12]


@pytest.mark.parametrize(("function", "call"), [("nvmlInit", "init"), ("nvmlDeviceGetCount", "devices")])
def test_a_failing_connection_is_counted_and_tried_again(
    start: MakeCollector, value: Value, function: str, call: str
) -> None:
    """Failures to connect and to list are counted under their call until they end."""
    module = FakeNvml(Card(uuid="GPU-x"))
    module.fail[function] = pynvml.NVML_ERROR_UNKNOWN
    start(module)
    eventually(lambda: (value("imagegen_gpu_collector_errors_total", call=call, error="unknown") or 0) >= 2)
    assert value("imagegen_gpu_collector_up") == 0
    module.fail.clear()
    eventually(lambda: value("imagegen_gpu_collector_up") == 1)


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("nvmlDeviceGetMemoryInfo", "memory"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy"),
        ("nvmlEventSetWait_v2", "xid"),
    ],
)
def test_a_hung_driver_blocks_nobody(
    start: MakeCollector, metrics: Metrics, value: Value, clock: Clock, function: str, call: str
) -> None:
    """While a call hangs, scrapes over HTTP answer; old readings vanish, the hang counts once, nobody waits."""
    module = FakeNvml(Card(uuid="GPU-x"))
    collector = start(module, "GPU-x")
    eventually(lambda: value("imagegen_gpu_collector_up") == 1)
    eventually(lambda: collector.energy_joules() is not None)
    module.hold = function
    module.waiting.wait()
    clock.now += 60
    server = MetricsServer(metrics.registry, lambda: "serving", host="127.0.0.1", port=0)
    server.start()
    for _ in range(3):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as answer:
            body = answer.read().decode()
        assert "\nimagegen_gpu_collector_up 0.0\n" in body
        assert "\nimagegen_draining 0.0\n" in body
        assert "imagegen_gpu_memory_used_bytes{" not in body
    server.stop()
    assert value("imagegen_gpu_health", gpu="0") is None
    assert collector.energy_joules() is None
    assert value("imagegen_gpu_collector_errors_total", call=call, error="timeout") == 1
    collector.stop(timeout=0.01)
    assert not module.release.is_set(), "stopping did not wait for the driver"
    module.release.set()


def test_a_driver_that_hangs_for_a_while_is_followed_again(start: MakeCollector, value: Value, clock: Clock) -> None:
    """When the call returns after all, readings are shown again; the next hang counts anew."""
    module = FakeNvml(Card(uuid="GPU-x"))
    start(module)
    eventually(lambda: value("imagegen_gpu_collector_up") == 1)
    for hangs in (1, 2):
        module.release.clear()
        module.waiting.clear()
        module.hold = "nvmlDeviceGetPowerUsage"
        module.waiting.wait()
        clock.now += 60
        assert value("imagegen_gpu_collector_up") == 0
        assert value("imagegen_gpu_collector_errors_total", call="power", error="timeout") == hangs
        module.hold = ""
        module.release.set()
        eventually(lambda: value("imagegen_gpu_collector_up") == 1)


def test_a_collector_that_was_not_started_stops(metrics: Metrics) -> None:
    """Stopping without a start does nothing, and a scrape shows that nothing is read."""
    collector = GpuCollector(Nvml(FakeNvml(Card(uuid="GPU-x"))), metrics.count_gpu_error)
    metrics.registry.register(collector)
    collector.stop()
    assert metrics.registry.get_sample_value("imagegen_gpu_collector_up") == 0
