"""Rows of *GPU health* about memory: the device's, against the plan, and torch's allocator."""

from __future__ import annotations

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import BAD, GOOD, WARN, Unit, graph, heatmap
from imagegen_server.telemetry import metrics as m


def memory() -> Row:
    """Returns the row of the device's memory."""
    return Row(
        title="Memory",
        panels=[
            graph(
                "Device memory",
                "In use by all processes and by the servers, of what the devices have. A difference between the two is "
                "another process.",
                Unit.BYTES,
                (q.total(m.GPU_MEMORY_TOTAL), "total"),
                (q.total(m.GPU_MEMORY_USED), "used"),
                (q.total(m.GPU_MEMORY_PROCESS), "servers"),
                colors={"total": "dark-red", "used": "orange", "servers": "blue"},
                alerts=["GpuVramHeadroomLow"],
            ),
            graph(
                "Against the plan",
                "What the memory plan may use and what it predicts, and what torch holds, by server. Above the budget "
                "the plan was wrong.",
                Unit.BYTES,
                (q.total(m.MEMORY_BUDGET, by="instance"), "{{instance}} budget"),
                (q.total(m.MEMORY_PLANNED, by="instance"), "{{instance}} planned"),
                (q.total(m.TORCH_RESERVED, by="instance"), "{{instance}} reserved"),
                (q.total(m.TORCH_ALLOCATED, by="instance"), "{{instance}} in tensors"),
                (q.total(m.TORCH_ALLOCATED_PEAK, by="instance"), "{{instance}} peak in tensors"),
                alerts=["GpuVramHeadroomLow", "GpuOutOfMemory"],
            ),
            graph(
                "Headroom",
                "Share of a GPU's memory that could still be had: free, or kept by torch for reuse.",
                Unit.RATIO,
                (measures.MEMORY_HEADROOM, "{{instance}} gpu {{gpu}}"),
                most=1,
                thresholds=((0, BAD), (0.05, WARN), (0.1, GOOD)),
                alerts=["GpuVramHeadroomLow"],
            ),
            heatmap(
                "Peak of a generation",
                "Most device memory in tensors while a generation that delivered was on the device.",
                Unit.BYTES,
                q.buckets(m.GENERATION_PEAK_MEMORY),
                width=12,
                alerts=["GpuVramHeadroomLow"],
            ),
            graph(
                "Peak of a generation, quantiles",
                "Most device memory in tensors while a generation that delivered was on the device.",
                Unit.BYTES,
                *measures.quantiles(m.GENERATION_PEAK_MEMORY),
                width=12,
                alerts=["GpuVramHeadroomLow"],
            ),
        ],
    )


def allocator() -> Row:
    """Returns the row of torch's allocator."""
    fragmented = f"{q.total(m.TORCH_INACTIVE_SPLIT)} / clamp_min({q.total(m.TORCH_RESERVED)}, 1)"
    return Row(
        title="Allocator",
        panels=[
            graph(
                "Fragmentation",
                "Share of what the allocator holds that is free, but in blocks partly in use. High: large tensors may "
                "not fit although memory is free.",
                Unit.RATIO,
                (fragmented, "fragmented"),
                most=1,
                alerts=["GpuAllocRetries", "GpuOutOfMemory"],
            ),
            graph(
                "Free in split blocks",
                "Memory that the allocator holds in blocks that are partly in use, by server.",
                Unit.BYTES,
                (q.total(m.TORCH_INACTIVE_SPLIT, by="instance"), "{{instance}}"),
                alerts=["GpuAllocRetries"],
            ),
            graph(
                "Pressure",
                "Allocations that had to flush the cache first, which costs time, and those that failed.",
                Unit.COUNT,
                (q.increase(m.TORCH_ALLOC_RETRIES), "flushes"),
                (q.increase(m.TORCH_OOMS), "out of memory"),
                colors={"flushes": "orange", "out of memory": "red"},
                alerts=["GpuAllocRetries", "GpuOutOfMemory", "GpuOutOfMemoryRepeated"],
            ),
        ],
    )
