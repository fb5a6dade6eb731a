"""The device, and the model that is loaded onto it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imagegen_server.core.plans import LatentShape
from imagegen_server.core.profiles import ModelProfile
from imagegen_server.core.words import Precision, Residency


@dataclass(kw_only=True, frozen=True, slots=True)
class DeviceInfo:
    """The device that runs the models."""

    type: str
    """cuda, cpu, or fake."""
    name: str
    driver: str
    """Empty without a GPU."""
    total_memory_bytes: int
    uuid: str = ""
    """As NVIDIA's driver writes it (GPU-…); empty without a GPU."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ComponentSize:
    """The size of one model component."""

    name: str
    """After its stage: base.unet, refiner.unet, text_encoder_2, vae …"""
    parameters: int
    bytes: int


@dataclass(kw_only=True, frozen=True, slots=True)
class MemoryPlan:
    """How the models are laid out in memory, and why."""

    residency: Residency
    precision: Precision
    available_bytes: int
    weights_bytes: int
    """Most weight bytes on the device at one time."""
    working_bytes: int
    """Set aside for activations and the allocator."""
    predicted_peak_bytes: int = 0
    """Most bytes that tensors are predicted to take on the device at one time, with full batches of the native size."""
    components: tuple[ComponentSize, ...]
    explanation: str


@dataclass(kw_only=True, frozen=True, slots=True)
class LoadedModel:
    """What the server reports about the model it runs."""

    profile: ModelProfile
    device: DeviceInfo
    precision: Precision
    memory_plan: MemoryPlan
    refiner_loaded: bool
    packages: Mapping[str, str]
    """Versions of the packages that decide the pixels."""
    row_knees: Mapping[LatentShape, int] = field(default_factory=dict)
    """Rows of a batch beyond which more gain next to nothing, by latent shape, where that was measured."""
