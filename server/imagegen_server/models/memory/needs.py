"""How much memory a pair's parts need in a layout: a pure function of their sizes, known before anything is loaded.

Units: bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from imagegen_server.core import LATENT_FACTOR, ComponentSize, Precision, Residency, Size, Stage
from imagegen_server.models.memory.residency import LAYOUTS, STAGE_PARTS, VAE, Layout
from imagegen_server.models.precision import PrecisionChoice, item_bytes, vae_precision

HEADROOM = 1.5
"""Activations are multiplied by this for the caching allocator's fragmentation."""

RESERVE_BYTES = MappingProxyType({"cuda": 512 * 2**20, "cpu": 256 * 2**20})
"""Set aside whatever the size: library handles, kernels, and results on their way out."""


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
class Need:
    """What one layout takes."""

    layout: Layout
    weights: int
    """Most weights on the device at one time."""
    total: int
    """Most of everything on the device at one time, with headroom and reserve."""
    peak: int
    """Most that tensors take at one time, as predicted."""


def layouts(device_type: str) -> Sequence[Layout]:
    """Returns the layouts that a device may have, from the fastest to the smallest.

    On a CPU nothing can be swapped, since the parts would wait in the same memory.
    """
    return LAYOUTS if device_type == "cuda" else LAYOUTS[:1]


def need_of(request: MemoryRequest, layout: Layout) -> Need:
    """Returns what the parts take in a layout, with batches as they are asked for."""
    sizes = {size.name: size.bytes for size in component_sizes(request.parts, request.precision.precision)}
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
    return Need(layout=layout, weights=weights, total=total, peak=peak)


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


def _item_bytes(part: Part, precision: Precision) -> int:
    if part.name == VAE:
        return item_bytes(vae_precision(precision, force_upcast=part.force_upcast))
    return item_bytes(precision)


def _stages(sizes: Mapping[str, int]) -> list[Stage]:
    return [stage for stage, parts in STAGE_PARTS.items() if parts & sizes.keys()]


def _sum(sizes: Mapping[str, int], names: frozenset[str]) -> int:
    return sum(size for name, size in sizes.items() if name in names)
