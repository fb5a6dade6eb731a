"""How the parts are laid out in memory: a pure function of their sizes, made before anything is loaded.

Units: bytes. Gigabytes in texts are decimal (10^9), as precision thresholds and cards are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from imagegen_server.core import LATENT_FACTOR, ComponentSize, MemoryPlan, Precision, Residency, Size, Stage
from imagegen_server.errors import DoesNotFit
from imagegen_server.models.memory.residency import (
    LAYOUTS,
    REFINER_TEXT_ENCODER,
    REFINER_UNET,
    STAGE_PARTS,
    VAE,
    Layout,
)
from imagegen_server.models.precision import PrecisionChoice, item_bytes, vae_precision

HEADROOM = 1.5
"""Activations are multiplied by this for the caching allocator's fragmentation."""

RESERVE_BYTES = MappingProxyType({"cuda": 512 * 2**20, "cpu": 256 * 2**20})
"""Set aside whatever the size: library handles, kernels, and results on their way out."""

MOST_ROWS = 64
"""No batch is reckoned to be larger."""

_ROWS_OF_A_JOB = 2
"""Under guidance; a smaller row budget does not split a job."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Part:
    """A component before it is loaded. Shared components appear once."""

    name: str
    """One of the names in `residency`."""
    parameters: int
    force_upcast: bool = False
    """Of the VAE: it must not run in fp16."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Activations:
    """The most tensor elements alive at once in one evaluation, for each row and latent pixel.

    Found by running each part on meta tensors and adding up the storages alive, with memory-efficient attention
    (no matrix of sequence x sequence). They hardly depend on the size or the number of rows. For SDXL's VAE it is
    three tensors of 256 channels at full resolution: 3 x 256 x 8 x 8. The text encoders need less than any of them.
    """

    base_unet: int
    refiner_unet: int
    vae: int
    vae_workspace: int = 0
    """Besides, what cuDNN takes where the VAE decodes on tensor cores, which every precision but fp32 does on a GPU: it
    turns contiguous tensors to channels last and back. Measured, not counted."""


SDXL_ACTIVATIONS = Activations(base_unet=5_080, refiner_unet=6_075, vae=49_160, vae_workspace=28_900)
"""The workspace was measured on an H200 with cuDNN 9 (docs/benchmarks.md): 28,732 in bf16, 28,954 in fp32 with TF32, 0
without TF32."""
SHAPES_ACTIVATIONS = Activations(base_unet=547, refiner_unet=528, vae=5_125)


@dataclass(kw_only=True, frozen=True, slots=True)
class MemoryRequest:
    """What a plan is asked for."""

    parts: tuple[Part, ...]
    activations: Activations
    native: Size
    """Pixels of the images that must fit."""
    rows: int
    """UNet rows of the largest batch at that size; a guided image has two."""
    precision: PrecisionChoice
    device_type: str
    """cuda or cpu."""
    free_bytes: int
    """What the device has left."""
    budget_bytes: int | None = None
    """What the operator allows; None is no limit."""

    @property
    def available_bytes(self) -> int:
        """The least of what is free and what is allowed."""
        return self.free_bytes if self.budget_bytes is None else min(self.free_bytes, self.budget_bytes)


@dataclass(kw_only=True, frozen=True, slots=True)
class PlannedMemory:
    """A plan with the layout that carries it out."""

    plan: MemoryPlan
    layout: Layout
    most_rows: int
    """UNet rows at the native size that fit as well, up to `MOST_ROWS`; at least those that were asked for."""
    smaller: tuple[PlannedMemory, ...] = ()
    """What is left if memory runs out nevertheless, one after the other."""


@dataclass(kw_only=True, frozen=True, slots=True)
class _Need:
    layout: Layout
    weights: int
    """Most weights on the device at one time."""
    total: int
    """Most of everything on the device at one time, with headroom and reserve."""
    peak: int
    """Most that tensors take at one time, as predicted."""


def plan_memory(request: MemoryRequest) -> PlannedMemory:
    """Returns the fastest layout that fits.

    On a CPU nothing can be swapped, since the parts would wait in the same memory. Raises `errors.DoesNotFit` with
    the numbers and what to change.
    """
    components = component_sizes(request.parts, request.precision.precision)
    needs = [_need(layout, components, request) for layout in _layouts(request.device_type)]
    fitting = next((index for index, need in enumerate(needs) if need.total <= request.available_bytes), None)
    if fitting is None:
        raise DoesNotFit(_refusal(request, needs[-1]))
    explanation = _explanation(request, needs[0], needs[fitting])
    smaller = (
        _planned(request, need, components, f"{explanation} Memory ran out nevertheless, so {_swapped(need)}")
        for need in needs[fitting + 1 :]
        if need.weights < needs[fitting].weights  # without a refiner there is no UNet to swap with
    )
    return replace(_planned(request, needs[fitting], components, explanation), smaller=tuple(smaller))


def _planned(
    request: MemoryRequest, need: _Need, components: tuple[ComponentSize, ...], explanation: str
) -> PlannedMemory:
    plan = MemoryPlan(
        residency=need.layout.residency,
        precision=request.precision.precision,
        available_bytes=request.available_bytes,
        weights_bytes=need.weights,
        working_bytes=need.total - need.weights,
        components=components,
        explanation=explanation,
        predicted_peak_bytes=need.peak,
    )
    more = (rows for rows in range(MOST_ROWS, request.rows, -1) if _fits(need.layout, components, request, rows))
    return PlannedMemory(plan=plan, layout=need.layout, most_rows=next(more, request.rows))


def _fits(layout: Layout, components: Sequence[ComponentSize], request: MemoryRequest, rows: int) -> bool:
    return _need(layout, components, replace(request, rows=rows)).total <= request.available_bytes


def component_sizes(parts: Iterable[Part], precision: Precision) -> tuple[ComponentSize, ...]:
    """Returns the sizes of the parts as stored in the precision."""
    return tuple(
        ComponentSize(name=part.name, parameters=part.parameters, bytes=part.parameters * _item_bytes(part, precision))
        for part in parts
    )


def working_bytes(request: MemoryRequest, stage: Stage) -> int:
    """Returns what a stage needs besides weights for a full batch of the native size.

    `HEADROOM` times its tensors without cuDNN's workspace, which is smaller where memory is short, or
    `activation_bytes` if that is more; and `RESERVE_BYTES`.
    """
    most = max(int(_tensor_bytes(request, stage, workspace=0) * HEADROOM), activation_bytes(request, stage))
    return most + RESERVE_BYTES[request.device_type]


def graph_bytes(request: MemoryRequest, layout: Layout) -> int:
    """Returns what CUDA graphs keep for themselves: the activations of the largest evaluation, in a pool of their own.

    They are used where both UNets stay on a GPU.
    """
    if request.device_type != "cuda" or layout.residency is not Residency.BOTH:
        return 0
    return max(activation_bytes(request, stage) for stage in (Stage.BASE, Stage.REFINER))


def activation_bytes(request: MemoryRequest, stage: Stage) -> int:
    """Returns the most bytes that a stage's tensors are predicted to take besides weights, for a full batch.

    rows x latent pixels x elements x bytes of an element; see `Activations`. Images are decoded one at a time.
    """
    tensor_cores = request.device_type == "cuda" and request.precision.precision is not Precision.FP32
    return _tensor_bytes(request, stage, workspace=request.activations.vae_workspace if tensor_cores else 0)


def _tensor_bytes(request: MemoryRequest, stage: Stage, *, workspace: int) -> int:
    vae = next((part for part in request.parts if part.name == VAE), None)
    unet_item = item_bytes(request.precision.precision)
    vae_item = unet_item if vae is None else _item_bytes(vae, request.precision.precision)
    per_pixel = {
        Stage.TEXT_ENCODE: 0,
        Stage.BASE: request.rows * request.activations.base_unet * unet_item,
        Stage.REFINER: request.rows * request.activations.refiner_unet * unet_item,
        Stage.VAE_DECODE: (request.activations.vae + workspace) * vae_item,
    }[stage]
    latent_pixels = (request.native.width // LATENT_FACTOR) * (request.native.height // LATENT_FACTOR)
    return latent_pixels * per_pixel


def gigabytes(count: int) -> str:
    """Returns a byte count in decimal gigabytes, for people."""
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


def _item_bytes(part: Part, precision: Precision) -> int:
    if part.name == VAE:
        return item_bytes(vae_precision(precision, force_upcast=part.force_upcast))
    return item_bytes(precision)


def _layouts(device_type: str) -> Sequence[Layout]:
    return LAYOUTS if device_type == "cuda" else LAYOUTS[:1]


def _need(layout: Layout, components: Sequence[ComponentSize], request: MemoryRequest) -> _Need:
    sizes = {component.name: component.bytes for component in components}
    swapped = frozenset[str]().union(*layout.groups)
    permanent = sum(size for name, size in sizes.items() if name not in swapped)
    largest_group = max((_sum(sizes, group) for group in layout.groups), default=0)
    graphs = graph_bytes(request, layout)
    weights = total = peak = 0
    for stage in _stages(sizes):
        group = layout.group(stage)
        # A stage whose parts are permanent leaves the last group where it is.
        on_device = permanent + (_sum(sizes, group) if group else largest_group)
        weights = max(weights, on_device)
        total = max(total, on_device + graphs + working_bytes(request, stage))
        peak = max(peak, on_device + activation_bytes(request, stage))
    return _Need(layout=layout, weights=weights, total=total, peak=peak)


def _stages(sizes: Mapping[str, int]) -> list[Stage]:
    return [stage for stage, parts in STAGE_PARTS.items() if parts & sizes.keys()]


def _sum(sizes: Mapping[str, int], names: frozenset[str]) -> int:
    return sum(size for name, size in sizes.items() if name in names)


def _work(request: MemoryRequest) -> str:
    return f"{request.native.width}x{request.native.height}, {request.rows} rows at once"


def _explanation(request: MemoryRequest, both: _Need, chosen: _Need) -> str:
    size = _work(request)
    sentences = [
        f"{request.precision.precision} because {request.precision.reason}.",
        f"All weights take {gigabytes(both.weights)}; with room for work at {size}, that is "
        f"{gigabytes(both.total)} of the {gigabytes(request.available_bytes)} {_whose(request)}.",
    ]
    if chosen.layout.residency is Residency.BOTH:
        sentences.append("It fits, so everything stays on the device.")
    else:
        sentences.append(f"It does not fit, so {_swapped(chosen)}")
    return " ".join(sentences)


def _swapped(need: _Need) -> str:
    return (
        f"{need.layout.summary}: {gigabytes(need.weights)} of weights, {gigabytes(need.total)} in all. "
        "The rest waits in host memory."
    )


def _refusal(request: MemoryRequest, smallest: _Need) -> str:
    size = _work(request)
    return (
        f"the model does not fit: {request.precision.precision} needs {gigabytes(smallest.total)} "
        f"({gigabytes(smallest.weights)} of weights, {gigabytes(smallest.total - smallest.weights)} for work at "
        f"{size}) when {smallest.layout.summary}, and {gigabytes(request.available_bytes)} are {_whose(request)}. "
        f"To change that: {'; '.join(_remedies(request, smallest))}."
    )


def _whose(request: MemoryRequest) -> str:
    return "allowed by the VRAM budget" if request.available_bytes < request.free_bytes else "free"


def _remedies(request: MemoryRequest, smallest: _Need) -> list[str]:
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


def _more_memory(request: MemoryRequest, smallest: _Need) -> str:
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
    components = component_sizes(request.parts, request.precision.precision)
    return _need(_layouts(request.device_type)[-1], components, request).total


def _rounded_up(count: int) -> str:
    """Returns a byte count in gigabytes that is at least as large, so that following the advice is enough."""
    return f"{math.ceil(count / 1e8) / 10:.1f} GB"
