"""The first row of *GPU health*: the worst of all GPUs in each respect."""

from __future__ import annotations

from typing import Final

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import BAD, GOOD, WARN, YES_IS_BAD, YES_IS_GOOD, Panel, Unit, number
from imagegen_server.telemetry import metrics as m

_UNCORRECTED: Final = 'type="uncorrected"'


def now() -> Row:
    """Returns the row that tells at a glance whether all is well."""
    return Row(title="Now: the worst of the GPUs", panels=[*_health(), *_figures()])


def _health() -> list[Panel]:
    return [
        number(
            "Healthy",
            "Whether every GPU works: none is lost, has an error that only a reset or a repair ends, or is that of a "
            "server that does not answer.",
            Unit.STATE,
            measures.GPU_HEALTH,
            states=YES_IS_GOOD,
            alerts=["GpuUnhealthy"],
        ),
        number(
            "Readings",
            "Whether every server that has a GPU reads it. Without readings the other panels are blind.",
            Unit.STATE,
            q.aggregate(measures.GPU_READ, of="min"),
            states=YES_IS_GOOD,
            alerts=["GpuCollectorDown"],
        ),
        number(
            "Memory headroom",
            "Share of a GPU's memory that could still be had, where it is least: free, or kept by torch for reuse.",
            Unit.RATIO,
            q.aggregate(measures.MEMORY_HEADROOM, of="min"),
            thresholds=((-1, BAD), (0.05, WARN), (0.1, GOOD)),
            decimals=0,
            alerts=["GpuVramHeadroomLow"],
        ),
        number(
            "Degrees to limit",
            "Degrees until clocks are held down, where it is least.",
            Unit.CELSIUS,
            measures.DEGREES_TO_LIMIT,
            thresholds=((-273, BAD), (5, WARN), (10, GOOD)),
            alerts=["GpuHot"],
        ),
        number(
            "Throttled",
            "Share of the time for which clocks were held down, for any reason but low utilization, where it is most.",
            Unit.RATIO,
            measures.THROTTLED,
            thresholds=((0.05, WARN), (0.3, BAD)),
            decimals=0,
            alerts=["GpuThermalThrottle"],
        ),
        number(
            "Idle with a queue",
            "Whether a GPU rests while generations wait for it.",
            Unit.STATE,
            measures.IDLE_WITH_QUEUE,
            states=YES_IS_BAD,
            alerts=["GpuIdleWithQueue"],
        ),
        number(
            "XID errors",
            "Errors that the driver reported in the time range shown.",
            Unit.NUMBER,
            q.increase(m.GPU_XID_ERRORS, window="$__range"),
            thresholds=((0.5, BAD),),
            decimals=0,
            alerts=["GpuXid"],
        ),
        number(
            "ECC uncorrected",
            "Memory errors in the time range shown that could not be corrected.",
            Unit.NUMBER,
            q.increase(m.GPU_ECC_ERRORS, _UNCORRECTED, window="$__range"),
            thresholds=((0.5, BAD),),
            decimals=0,
            alerts=["GpuEccUncorrected"],
        ),
    ]


def _figures() -> list[Panel]:
    return [
        number(
            "Utilization",
            "Share of the last sample period with a kernel running, mean of the GPUs.",
            Unit.RATIO,
            q.total(m.GPU_UTILIZATION, of="avg"),
            decimals=0,
            alerts=["GpuIdleWithQueue"],
        ),
        number(
            "Hottest",
            "Temperature of the hottest GPU.",
            Unit.CELSIUS,
            q.total(m.GPU_TEMPERATURE, of="max"),
            alerts=["GpuHot"],
        ),
        number("Power", "Power drawn by all boards.", Unit.WATTS, q.total(m.GPU_POWER)),
        number(
            "Power of limit",
            "Power drawn as a share of the limit that is enforced, where it is highest. At 100 % clocks go down.",
            Unit.RATIO,
            measures.POWER_RATIO,
            decimals=0,
            alerts=["GpuThermalThrottle"],
        ),
        number(
            "Energy per image",
            "The energy of all GPUs, idle included, for each image file that their servers made in five minutes.",
            Unit.JOULES,
            measures.JOULES_PER_IMAGE,
        ),
        number(
            "Out of memory",
            "Allocations in the time range shown that failed for lack of memory.",
            Unit.NUMBER,
            q.increase(m.TORCH_OOMS, window="$__range"),
            thresholds=((0.5, BAD),),
            decimals=0,
            alerts=["GpuOutOfMemory", "GpuOutOfMemoryRepeated"],
        ),
        number(
            "Cache flushes",
            "Allocations in the time range shown that had to flush the allocator's cache first: memory is tight.",
            Unit.NUMBER,
            q.increase(m.TORCH_ALLOC_RETRIES, window="$__range"),
            thresholds=((0.5, WARN),),
            decimals=0,
            alerts=["GpuAllocRetries"],
        ),
        number(
            "Failed readings",
            "Readings of the GPU in the time range shown that failed.",
            Unit.NUMBER,
            q.increase(m.GPU_COLLECTOR_ERRORS, window="$__range"),
            decimals=0,
            alerts=["GpuCollectorDown"],
        ),
    ]
