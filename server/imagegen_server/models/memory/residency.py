"""Which parts share the device: the layouts, and moving parts with accelerate's hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagegen_server.core import Residency, Stage

if TYPE_CHECKING:
    import torch
    from torch import nn

BASE_UNET = "base.unet"
REFINER_UNET = "refiner.unet"
TEXT_ENCODER = "text_encoder"
TEXT_ENCODER_2 = "text_encoder_2"
REFINER_TEXT_ENCODER = "refiner.text_encoder"
"""Of a refiner with a first encoder, which SDXL's own has not."""
VAE = "vae"

STAGE_PARTS: Mapping[Stage, frozenset[str]] = {
    Stage.TEXT_ENCODE: frozenset({TEXT_ENCODER, TEXT_ENCODER_2, REFINER_TEXT_ENCODER}),
    Stage.BASE: frozenset({BASE_UNET}),
    Stage.REFINER: frozenset({REFINER_UNET}),
    Stage.VAE_DECODE: frozenset({VAE}),
}
"""The parts that compute in each device stage."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Layout:
    """A way of sharing the device between the parts."""

    residency: Residency
    groups: tuple[frozenset[str], ...]
    """Of these groups of parts only one is on the device at a time; every other part is always there."""
    summary: str

    def group(self, stage: Stage) -> frozenset[str]:
        """Returns the group that computes in the stage; empty if its parts are always on the device."""
        for group in self.groups:
            if group & STAGE_PARTS[stage]:
                return group
        return frozenset()


LAYOUTS = (
    Layout(residency=Residency.BOTH, groups=(), summary="everything stays on the device"),
    Layout(
        residency=Residency.SWAP,
        groups=(STAGE_PARTS[Stage.BASE], STAGE_PARTS[Stage.REFINER]),
        summary="only the active stage's UNet is on the device",
    ),
    Layout(
        residency=Residency.SWAP,
        groups=tuple(STAGE_PARTS.values()),
        summary="only the parts of the active stage are on the device",
    ),
)
"""From the fastest to the smallest."""


class Swapper:
    """Keeps one group of parts on the device at a time; `activate` is called before each device stage.

    Uses accelerate's `cpu_offload_with_hook`: a part that is not on the device waits in host memory. Weights are only
    read, so what was copied to the device stays there as well and need not be copied back. Called from the device
    thread only.
    """

    def __init__(self, layout: Layout, parts: Mapping[str, nn.Module], device: torch.device) -> None:
        """Moves the parts of every group to host memory and all others to the device."""
        from accelerate import cpu_offload_with_hook  # noqa: PLC0415 - heavy

        self._layout = layout
        self._device = device
        self._active: frozenset[str] = frozenset()
        """The group that is on the device."""
        self._waiting: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        """What the parts that are there had in host memory: parameters and buffers, and their data."""
        swapped = frozenset[str]().union(*layout.groups)
        self._hooks = {name: cpu_offload_with_hook(parts[name], device)[1] for name in sorted(swapped & parts.keys())}
        for name, part in parts.items():
            if name not in swapped:
                part.to(device)

    def activate(self, stage: Stage) -> None:
        """Brings the stage's group to the device after taking the others away; nothing if it is there."""
        group = self._layout.group(stage)
        if not group or group == self._active:
            return
        self._evict()
        self._active = group
        try:
            for name in sorted(group & self._hooks.keys()):
                hook = self._hooks[name]
                self._waiting[name] = _in_host_memory(hook.model)
                hook.hook.pre_forward(hook.model)
        except Exception:
            self._evict()  # else a part that is half there would pass for one that is there
            raise

    def _evict(self) -> None:
        import torch  # noqa: PLC0415 - heavy

        for name in sorted(self._active & self._hooks.keys()):
            for tensor, data in self._waiting.pop(name, ()):
                if tensor.stride() == data.stride():  # else it was laid out anew on the device
                    tensor.data = data
            self._hooks[name].offload()  # copies what has not been there before
        self._active = frozenset()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # the next group's tensors have other sizes and would not reuse the blocks


def _in_host_memory(part: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns the parameters and buffers with what they hold; no tensors of torchao, which only `to` can exchange."""
    import torch  # noqa: PLC0415 - heavy

    tensors = (*part.parameters(), *part.buffers())
    return [(tensor, tensor.data) for tensor in tensors if type(tensor.data) is torch.Tensor]
