"""A server's GPUs and torch's allocator, as they are shown. None: there is no such reading."""

from __future__ import annotations

from dataclasses import dataclass

from imagegen_server.top.history import Growth
from imagegen_server.top.snapshot import Snapshot


@dataclass(kw_only=True, frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: str
    name: str | None
    driver: str | None
    mig: str | None
    healthy: bool | None
    utilization: float | None
    """0 to 1."""
    memory_utilization: float | None
    """0 to 1."""
    memory_used: float | None
    """Bytes, of all processes."""
    memory_process: float | None
    """Bytes, of the server."""
    memory_total: float | None
    """Bytes."""
    temperature: float | None
    """Degrees Celsius."""
    temperature_limit: float | None
    power: float | None
    """Watts."""
    power_limit: float | None
    clock: float | None
    """Of the multiprocessors, in hertz."""
    throttled: dict[str, float] | None
    """Seconds for which clocks were held down, by reason, where it is not 0."""
    throttled_of: float | None
    """Seconds that `throttled` is about; None: since the server's start."""
    ecc: dict[str, float]
    """Memory errors since the start, by type."""
    xids: dict[str, float] | None
    """Errors that the driver reported since the start, by number, where there are any."""
    joules_per_image: float | None


@dataclass(kw_only=True, frozen=True, slots=True)
class Allocator:
    """torch's allocator, in bytes."""

    allocated: float | None
    reserved: float | None
    peak: float | None
    fragmented: float | None
    """Free memory in blocks that are partly in use."""
    retries: float | None
    """Allocations that had to flush the cache first, since the start."""
    ooms: float | None
    """Allocations that failed, since the start."""

    @property
    def known(self) -> bool:
        """Whether there is anything to show."""
        return self.allocated is not None or self.reserved is not None


def gpus(now: Snapshot, spread: Growth) -> tuple[Gpu, ...]:
    """Returns every GPU of which there is any reading, by index.

    Args:
        now: the last scrape.
        spread: growth over which throttling is looked at and energy is divided by images.
    """
    indices = {
        labels["gpu"]
        for name in now.gauges
        if name.startswith("imagegen_gpu_")
        for labels in now.label_sets(name)
        if "gpu" in labels
    }
    by_number = sorted(indices, key=lambda index: (not index.isdigit(), int(index) if index.isdigit() else 0, index))
    return tuple(_gpu(index, now, spread) for index in by_number)


def allocator(now: Snapshot) -> Allocator:
    """Returns the allocator's readings."""
    return Allocator(
        allocated=now.total("imagegen_torch_allocated_bytes"),
        reserved=now.total("imagegen_torch_reserved_bytes"),
        peak=now.total("imagegen_torch_allocated_peak_bytes"),
        fragmented=now.total("imagegen_torch_inactive_split_bytes"),
        retries=now.total("imagegen_torch_alloc_retries_total"),
        ooms=now.total("imagegen_torch_ooms_total"),
    )


def _gpu(index: str, now: Snapshot, spread: Growth) -> Gpu:
    info = next((labels for labels in now.label_sets("imagegen_gpu_info") if labels["gpu"] == index), {})
    health = now.total("imagegen_gpu_health", gpu=index)
    images = spread.increase("imagegen_images_total")
    energy = spread.increase("imagegen_gpu_energy_joules_total", gpu=index)
    return Gpu(
        index=index,
        name=info.get("name"),
        driver=info.get("driver"),
        mig=info.get("mig"),
        healthy=None if health is None else health > 0,
        utilization=now.total("imagegen_gpu_utilization_ratio", gpu=index),
        memory_utilization=now.total("imagegen_gpu_memory_utilization_ratio", gpu=index),
        memory_used=now.total("imagegen_gpu_memory_used_bytes", gpu=index),
        memory_process=now.total("imagegen_gpu_memory_process_bytes", gpu=index),
        memory_total=now.total("imagegen_gpu_memory_total_bytes", gpu=index),
        temperature=now.total("imagegen_gpu_temperature_celsius", gpu=index),
        temperature_limit=now.total("imagegen_gpu_temperature_limit_celsius", gpu=index),
        power=now.total("imagegen_gpu_power_watts", gpu=index),
        power_limit=now.total("imagegen_gpu_power_limit_watts", gpu=index),
        clock=now.total("imagegen_gpu_clock_hertz", gpu=index, clock="sm"),
        throttled=_throttled(index, spread),
        throttled_of=spread.seconds,
        ecc=_since_start(now, "imagegen_gpu_ecc_errors_total", "type", index),
        xids=_xids(now, index),
        joules_per_image=energy / images if energy is not None and images else None,
    )


def _throttled(index: str, spread: Growth) -> dict[str, float] | None:
    held = spread.by("imagegen_gpu_throttle_seconds_total", "reason", gpu=index)
    return {reason: seconds for reason, seconds in held.items() if seconds > 0} if held else None


def _since_start(now: Snapshot, name: str, label: str, index: str) -> dict[str, float]:
    series = now.counters.get(name, {})
    return {dict(labels)[label]: value for labels, value in series.items() if ("gpu", index) in labels}


def _xids(now: Snapshot, index: str) -> dict[str, float] | None:
    counted = _since_start(now, "imagegen_gpu_xid_errors_total", "xid", index)
    return {xid: count for xid, count in counted.items() if count} if counted else None
