"""The loaded base and refiner, as the loader hands them to the runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imagegen_server.core import DeviceInfo, MemoryPlan, ModelProfile, Precision, Stage
from imagegen_server.models.memory.residency import (
    BASE_UNET,
    LAYOUTS,
    REFINER_TEXT_ENCODER,
    REFINER_UNET,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    VAE,
    Layout,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from imagegen_server.models.memory.plan import PlannedMemory


def always_resident(stage: Stage) -> None:
    """Does nothing: the `activate` of a pair whose models are all on the device."""
    del stage


@dataclass(kw_only=True, slots=True)
class LoadedPair:
    """Both pipelines, with what was decided about them.

    `text_encoder_2`, `tokenizer_2` and the VAE are the same objects in both pipelines. Every module is in eval
    mode; the VAE keeps one dtype for good (fp32 where its config forces the upcast and `dtype` is fp16).
    """

    profile: ModelProfile
    base: Any
    """A StableDiffusionXLPipeline. diffusers gives pipelines their components at run time: their type knows none."""
    refiner: Any
    """A StableDiffusionXLImg2ImgPipeline, or None."""
    device: torch.device
    dtype: torch.dtype
    """Of the UNets and the text encoders."""
    precision: Precision
    memory_plan: MemoryPlan
    device_info: DeviceInfo
    packages: Mapping[str, str]
    """Versions of the packages that decide the pixels."""
    layout: Layout = LAYOUTS[0]
    """How the parts share the device."""
    most_rows: int | None = None
    """UNet rows of the native size for which there is memory, as planned; None if that is not known."""
    smaller: Sequence[PlannedMemory] = ()
    """What is left to give up of that, with the memory plan of each."""
    activate: Callable[[Stage], None] = field(default=always_resident)
    """Brings the modules of a device stage to the device where they are swapped; see `bring`."""

    def bring(self, stage: Stage) -> None:
        """Brings what a device stage computes with to the device, where the parts of the pair take turns there."""
        import torch  # noqa: PLC0415 - heavy

        with torch.inference_mode(False), torch.no_grad():  # else parameters become what normal code may not touch
            self.activate(stage)

    def modules(self) -> dict[str, nn.Module]:
        """Returns the parts with weights by their names in `residency`, shared ones once."""
        return parts_of(self.base, self.refiner)


def parts_of(base: Any, refiner: Any | None) -> dict[str, nn.Module]:
    """Returns the parts of two pipelines by their names in `residency`; what the refiner shares appears once."""
    parts = {
        BASE_UNET: base.unet,
        TEXT_ENCODER: base.text_encoder,
        TEXT_ENCODER_2: base.text_encoder_2,
        VAE: base.vae,
    }
    if refiner is not None:
        parts[REFINER_UNET] = refiner.unet
        if refiner.text_encoder not in (None, base.text_encoder):
            parts[REFINER_TEXT_ENCODER] = refiner.text_encoder
    return parts
