"""What people are told of a memory plan: why it is this one, or what to change where none fits.

Gigabytes are decimal (10^9), as precision thresholds and cards are.
"""

from __future__ import annotations

import math
from dataclasses import replace

from imagegen_server.core import Precision, Residency
from imagegen_server.models.memory.needs import MemoryRequest, Need, layouts, need_of
from imagegen_server.models.memory.residency import REFINER_TEXT_ENCODER, REFINER_UNET
from imagegen_server.models.precision import PrecisionChoice, item_bytes

_ROWS_OF_A_JOB = 2
"""Under guidance; a smaller row budget does not split a job."""


def gigabytes(count: int) -> str:
    """Returns a byte count in decimal gigabytes, for people."""
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


def explanation_of(request: MemoryRequest, both: Need, chosen: Need) -> str:
    """Returns why a layout was chosen, and what it would have taken to keep everything on the device."""
    size = _work(request)
    sentences = [
        f"{request.precision.precision} because {request.precision.reason}.",
        f"All weights take {gigabytes(both.weights)}; with room for work at {size}, that is "
        f"{gigabytes(both.total)} of the {gigabytes(request.available_bytes)} {_whose(request)}.",
    ]
    if chosen.layout.residency is Residency.BOTH:
        sentences.append("It fits, so everything stays on the device.")
    else:
        sentences.append(f"It does not fit, so {swapped(chosen)}")
    return " ".join(sentences)


def swapped(need: Need) -> str:
    """Returns what a layout is in which parts take turns."""
    return (
        f"{need.layout.summary}: {gigabytes(need.weights)} of weights, {gigabytes(need.total)} in all. "
        "The rest waits in host memory."
    )


def refusal(request: MemoryRequest, smallest: Need) -> str:
    """Returns what is wrong if even the smallest layout does not fit, and what to change."""
    size = _work(request)
    return (
        f"the model does not fit: {request.precision.precision} needs {gigabytes(smallest.total)} "
        f"({gigabytes(smallest.weights)} of weights, {gigabytes(smallest.total - smallest.weights)} for work at "
        f"{size}) when {smallest.layout.summary}, and {gigabytes(request.available_bytes)} are {_whose(request)}. "
        f"To change that: {'; '.join(_remedies(request, smallest))}."
    )


def _work(request: MemoryRequest) -> str:
    return f"{request.native.width}x{request.native.height}, {request.rows} rows at once"


def _whose(request: MemoryRequest) -> str:
    return "allowed by the VRAM budget" if request.available_bytes < request.free_bytes else "free"


def _remedies(request: MemoryRequest, smallest: Need) -> list[str]:
    remedies = [_more_memory(request, smallest)]
    half = _in_half_precision(request)
    if item_bytes(request.precision.precision) > 2 and _smallest_need(half) <= request.available_bytes:
        remedies.append(f"use precision {half.precision.precision}")
    fewer = replace(request, rows=_ROWS_OF_A_JOB)
    if request.rows > _ROWS_OF_A_JOB and _smallest_need(fewer) <= request.available_bytes:
        remedies.append(f"lower the row budget to {_ROWS_OF_A_JOB}")
    refiner = (REFINER_UNET, REFINER_TEXT_ENCODER)
    alone = replace(request, parts=tuple(part for part in request.parts if part.name not in refiner))
    if _smallest_need(alone) <= request.available_bytes:
        remedies.append("go without the refiner")
    return remedies


def _more_memory(request: MemoryRequest, smallest: Need) -> str:
    """Returns how much has to be free, and how much allowed, where either is too little."""
    bounds = []
    if request.free_bytes < smallest.total:
        bounds.append(f"free {_rounded_up(smallest.total - request.free_bytes)} more or use a larger device")
    if request.budget_bytes is not None and request.budget_bytes < smallest.total:
        bounds.append(f"raise the VRAM budget to {_rounded_up(smallest.total)}")
    return ", and ".join(bounds)


def _in_half_precision(request: MemoryRequest) -> MemoryRequest:
    half = Precision.FP16 if request.device_type == "cuda" else Precision.BF16
    return replace(request, precision=PrecisionChoice(precision=half, reason="it takes half the memory"))


def _smallest_need(request: MemoryRequest) -> int:
    return need_of(request, layouts(request.device_type)[-1]).total


def _rounded_up(count: int) -> str:
    """Returns a byte count in gigabytes that is at least as large, so that following the advice is enough."""
    return f"{math.ceil(count / 1e8) / 10:.1f} GB"
