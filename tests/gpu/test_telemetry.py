"""What the driver tells of a real GPU while it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from gpu.figures import Figures
from gpu.site import Site
from imagegen_server.models import device as devices
from imagegen_server.telemetry import AllocatorCollector, GpuCollector, Metrics, Nvml, closed_sets

Value = Callable[..., float | None]
"""Reads a sample by its name and labels."""

WORK_SECONDS = 4.0


@pytest.fixture
def value(site: Site) -> Iterator[tuple[Value, GpuCollector]]:
    """Reads a sample of a collector that polls the site's GPU, and that collector."""
    if site.device == "cpu":
        pytest.skip("a CPU has no NVML")
    registry = CollectorRegistry()
    metrics = Metrics(registry, models=("shapes",))
    collector = GpuCollector(Nvml(), metrics.count_gpu_error, interval=0.5, energy_interval=0.1)
    registry.register(collector)
    registry.register(AllocatorCollector(devices.allocator_stats, metrics.count_gpu_error))
    collector.start(devices.describe(devices.resolve(site.device)).uuid)
    yield lambda series, /, **labels: registry.get_sample_value(series, labels), collector
    collector.stop(timeout=30)


def _work(seconds: float) -> None:
    """Keeps the GPU busy."""
    import torch

    left = torch.randn(4096, 4096, device="cuda")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        left = torch.tanh(left @ left)
        torch.cuda.synchronize()


def test_readings_exist_and_are_plausible(value: tuple[Value, GpuCollector], site: Site, measured: Figures) -> None:
    """The served GPU is found by torch's UUID; memory, temperature, power, clocks and energy are physical."""
    read, collector = value
    info = devices.describe(devices.resolve(site.device))
    _work(1.0)
    assert read("imagegen_gpu_collector_up") == 1
    gpu = _label(read, info.uuid)
    before = collector.energy_joules()
    began = time.monotonic()
    _work(WORK_SECONDS)
    seconds, after = time.monotonic() - began, collector.energy_joules()
    total, used = read("imagegen_gpu_memory_total_bytes", gpu=gpu), read("imagegen_gpu_memory_used_bytes", gpu=gpu)
    power, limit = read("imagegen_gpu_power_watts", gpu=gpu), read("imagegen_gpu_power_limit_watts", gpu=gpu)
    temperature = read("imagegen_gpu_temperature_celsius", gpu=gpu)
    clock = read("imagegen_gpu_clock_hertz", gpu=gpu, clock="sm")
    mean = None if before is None or after is None else (after - before) / seconds
    figures = {"power_w": power, "mean_power_w": mean, "temperature_c": temperature, "clock_hz": clock}
    refused = {
        f"{call}/{error}"
        for call in closed_sets.GPU_CALLS
        for error in closed_sets.GPU_ERRORS
        if read("imagegen_gpu_collector_errors_total", call=call, error=error)
    }
    measured.add("telemetry under load", **figures, used_gb=(used or 0) / 1e9, refused=" ".join(sorted(refused)))
    assert not [name for name in refused if name.endswith(("/lost", "/timeout"))]
    assert read("imagegen_gpu_health", gpu=gpu) == 1
    if total is not None and used is not None:  # not under MIG
        assert info.total_memory_bytes * 0.9 <= total <= info.total_memory_bytes * 1.2
        assert 0 < used <= total
    if temperature is not None:
        assert 10 < temperature < 110
    if power is not None and limit is not None:
        assert 5 < power < 2 * limit
    if clock is not None:
        assert 1e8 < clock < 5e9
    if mean is not None and limit is not None:
        assert 5 < mean < 2 * limit, "joules over seconds are the board's watts"


def test_torch_and_the_driver_agree_on_memory(value: tuple[Value, GpuCollector]) -> None:
    """A tensor of 256 MiB shows in the allocator's series at once."""
    import torch

    read, _ = value
    torch.zeros(1, device="cuda")
    before = read("imagegen_torch_allocated_bytes")
    block = torch.zeros(2**28, dtype=torch.uint8, device="cuda")
    after = read("imagegen_torch_allocated_bytes")
    assert before is not None
    assert after is not None
    assert 2**28 <= after - before < 2**28 + 2**21
    del block
    assert (read("imagegen_torch_allocated_peak_bytes") or 0) >= after


def _label(read: Value, uuid: str) -> str:
    """Returns the label of the GPU with a UUID, by asking NVML what else there is to know of it."""
    nvml = Nvml()
    nvml.open()
    found = {nvml.identity(index).uuid: nvml.identity(index) for index in range(nvml.count())}
    nvml.close()
    assert uuid in found, f"torch says {uuid}, NVML {sorted(found)}"
    gpu = found[uuid]
    label = str(gpu.index)
    assert read("imagegen_gpu_info", gpu=label, uuid=uuid, name=gpu.name, driver=gpu.driver, mig=gpu.mig) == 1
    return label
