"""Rows of *GPU health* about the device: load, heat, energy, faults."""

from __future__ import annotations

from typing import Final

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import BAD, WARN, YES_IS_A_WARNING, YES_IS_GOOD, Unit, facts, graph, timeline
from imagegen_server.telemetry import metrics as m

_GPU: Final = "instance, gpu"
_NAME: Final = "{{instance}} gpu {{gpu}}"


def load() -> Row:
    """Returns the row of how much the device does."""
    return Row(
        title="Load",
        panels=[
            graph(
                "Utilization",
                "Share of the last sample period with a kernel running. Not supported under MIG.",
                Unit.RATIO,
                (q.total(m.GPU_UTILIZATION, by=_GPU, of="max"), _NAME),
                most=1,
                alerts=["GpuIdleWithQueue"],
            ),
            graph(
                "Memory traffic",
                "Share of the last sample period in which device memory was read or written.",
                Unit.RATIO,
                (q.total(m.GPU_MEMORY_UTILIZATION, by=_GPU, of="max"), _NAME),
                most=1,
            ),
            graph(
                "Busy and waiting",
                "Generations that wait, against the share of the time for which turns kept the device busy. Waiting "
                "without work: the device thread is stuck.",
                Unit.COUNT,
                (q.total(m.QUEUED), "waiting"),
                (q.rate(m.DEVICE_SECONDS), "devices busy"),
                alerts=["GpuIdleWithQueue", "StuckGeneration"],
            ),
            graph(
                "Clock of the multiprocessors",
                "It falls when the GPU rests, and under load when it is throttled.",
                Unit.HERTZ,
                (q.total(m.GPU_CLOCK, 'clock="sm"', by=_GPU, of="max"), _NAME),
                width=12,
                alerts=["GpuThermalThrottle"],
            ),
            graph(
                "Clock of the memory",
                "It falls when the GPU rests.",
                Unit.HERTZ,
                (q.total(m.GPU_CLOCK, 'clock="memory"', by=_GPU, of="max"), _NAME),
                width=12,
            ),
        ],
    )


def heat() -> Row:
    """Returns the row of what holds the clocks down."""
    return Row(
        title="Heat, power and throttling",
        panels=[
            graph(
                "Temperature",
                "Of each GPU, and the temperature at which clocks are held down.",
                Unit.CELSIUS,
                (q.total(m.GPU_TEMPERATURE, by=_GPU, of="max"), _NAME),
                (q.total(m.GPU_TEMPERATURE_LIMIT, of="min"), "limit"),
                colors={"limit": "dark-red"},
                alerts=["GpuHot", "GpuThermalThrottle"],
            ),
            graph(
                "Power",
                "Drawn by each board, and the limit that is enforced.",
                Unit.WATTS,
                (q.total(m.GPU_POWER, by=_GPU, of="max"), _NAME),
                (q.total(m.GPU_POWER_LIMIT, of="min"), "limit"),
                colors={"limit": "dark-red"},
            ),
            graph(
                "Throttled, by reason",
                "Share of the time for which clocks were held down, summed over GPUs. power is normal under full load; "
                "thermal means cooling; reliability means voltage.",
                Unit.RATIO,
                (q.rate(m.GPU_THROTTLE, by="reason"), "{{reason}}"),
                colors={"thermal": BAD, "reliability": "dark-red", "power": WARN, "low_utilization": "text"},
                alerts=["GpuThermalThrottle"],
            ),
        ],
    )


def energy() -> Row:
    """Returns the row of what images cost in energy."""
    return Row(
        title="Energy",
        panels=[
            graph(
                "Energy per image",
                "The GPU's energy, idle included, for each image file made in five minutes. Empty while none is made.",
                Unit.JOULES,
                (f"1 / ({measures.IMAGES_PER_JOULE} > 0)", "{{instance}}"),
            ),
            graph(
                "Images per joule",
                "Image files made in five minutes for each joule of the GPU, idle included.",
                Unit.NUMBER,
                (measures.IMAGES_PER_JOULE, "{{instance}}"),
            ),
            graph(
                "Energy used",
                "Of each GPU, in the last hour.",
                Unit.JOULES,
                (q.increase(m.GPU_ENERGY, by=_GPU, window="1h"), _NAME),
            ),
        ],
    )


def faults() -> Row:
    """Returns the row of errors, and of the readings themselves."""
    return Row(
        title="Faults",
        panels=[
            timeline(
                "Health",
                "no: the GPU is lost, or has an error that only a reset or a repair ends.",
                (q.total(m.GPU_HEALTH, by=_GPU, of="min"), _NAME),
                states=YES_IS_GOOD,
                width=8,
                alerts=["GpuUnhealthy"],
            ),
            graph(
                "XID errors",
                "Errors that the driver reported, by number. 48, 63, 64, 94, 95: memory; 79: fell off the bus; "
                "13, 31, 43, 45: mostly the program's own.",
                Unit.COUNT,
                (q.increase(m.GPU_XID_ERRORS), "all"),
                (q.occurring(m.GPU_XID_ERRORS, by="xid"), "{{xid}}"),
                alerts=["GpuXid"],
            ),
            graph(
                "ECC errors",
                "Memory errors, by whether they were corrected. Uncorrected ones have spoilt data.",
                Unit.COUNT,
                (q.increase(m.GPU_ECC_ERRORS, by="type"), "{{type}}"),
                colors={"corrected": WARN, "uncorrected": BAD},
                alerts=["GpuEccUncorrected"],
            ),
            timeline(
                "Waiting for a reset",
                "Whether a broken row of memory waits for a reset, which replaces it.",
                (q.total(m.GPU_REMAP_PENDING, by=_GPU, of="max"), _NAME),
                states=YES_IS_A_WARNING,
                width=8,
                alerts=["GpuRemapPending"],
            ),
            timeline(
                "Readings",
                "Whether the GPU is being read, of servers that have one. no: its driver hangs, or is not to be had.",
                (q.aggregate(measures.GPU_READ, by="instance", of="min"), "{{instance}}"),
                states=YES_IS_GOOD,
                width=8,
                alerts=["GpuCollectorDown"],
            ),
            graph(
                "Failed readings",
                "Readings of the GPU that failed, and why. not_supported is harmless; lost and timeout are trouble.",
                Unit.COUNT,
                (q.increase(m.GPU_COLLECTOR_ERRORS, by="error"), "{{error}}"),
                (q.occurring(m.GPU_COLLECTOR_ERRORS, by="call"), "call: {{call}}"),
                alerts=["GpuCollectorDown"],
            ),
            facts(
                "GPUs",
                "The GPU of each server.",
                Unit.NUMBER,
                q.total(m.GPU_INFO, by="instance, gpu, name, driver, mig, uuid", of="max"),
                ["instance", "gpu", "name", "driver", "mig", "uuid"],
                width=24,
            ),
        ],
    )
