"""The loaded base and refiner, as the loader hands them to the runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imagegen_server.core import DeviceInfo, MemoryPlan, ModelProfile, Precision, Stage

if TYPE_CHECKING:
    import torch


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
    activate: Callable[[Stage], None] = field(default=always_resident)
    """Called before each device stage: brings the modules of that stage to the device where they are swapped."""
