"""How the parts are laid out in memory: the fastest layout that fits, chosen before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imagegen_server.core import MemoryPlan
from imagegen_server.errors import DoesNotFit
from imagegen_server.models.memory.explanation import explanation_of, refusal, swapped
from imagegen_server.models.memory.needs import MemoryRequest, Need, component_sizes, layouts, need_of
from imagegen_server.models.memory.residency import Layout

MOST_ROWS = 64
"""No batch is reckoned to be larger."""


@dataclass(kw_only=True, frozen=True, slots=True)
class PlannedMemory:
    """A plan with the layout that carries it out."""

    plan: MemoryPlan
    layout: Layout
    most_rows: int
    """UNet rows at the native size that fit as well, up to `MOST_ROWS`; at least those that were asked for."""
    smaller: tuple[PlannedMemory, ...] = ()
    """What is left if memory runs out nevertheless, one after the other."""


def plan_memory(request: MemoryRequest) -> PlannedMemory:
    """Returns the fastest layout that fits. Raises `errors.DoesNotFit` with the numbers and what to change."""
    needs = [need_of(request, layout) for layout in layouts(request.device_type)]
    fitting = next((index for index, need in enumerate(needs) if need.total <= request.available_bytes), None)
    if fitting is None:
        raise DoesNotFit(refusal(request, needs[-1]))
    explanation = explanation_of(request, needs[0], needs[fitting])
    smaller = (
        _planned(request, need, f"{explanation} Memory ran out nevertheless, so {swapped(need)}")
        for need in needs[fitting + 1 :]
        if need.weights < needs[fitting].weights  # without a refiner there is no UNet to swap with
    )
    return replace(_planned(request, needs[fitting], explanation), smaller=tuple(smaller))


def _planned(request: MemoryRequest, need: Need, explanation: str) -> PlannedMemory:
    plan = MemoryPlan(
        residency=need.layout.residency,
        precision=request.precision.precision,
        available_bytes=request.available_bytes,
        weights_bytes=need.weights,
        working_bytes=need.total - need.weights,
        components=component_sizes(request.parts, request.precision.precision),
        explanation=explanation,
        predicted_peak_bytes=need.peak,
    )
    more = (rows for rows in range(MOST_ROWS, request.rows, -1) if _fits(replace(request, rows=rows), need.layout))
    return PlannedMemory(plan=plan, layout=need.layout, most_rows=next(more, request.rows))


def _fits(request: MemoryRequest, layout: Layout) -> bool:
    return need_of(request, layout).total <= request.available_bytes
