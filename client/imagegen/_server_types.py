"""What a server says about itself and its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imagegen._enums import RefinerMode, Residency, ServerState
from imagegen._options import Size


@dataclass(kw_only=True, frozen=True, slots=True)
class Limits:
    """Ranges that a request must keep to, bounds included."""

    min_steps: int
    """Least base steps."""
    max_steps: int
    """Most base steps."""
    min_guidance_scale: float
    """Least guidance."""
    max_guidance_scale: float
    """Most guidance."""
    min_side: int
    """Least width and height in pixels."""
    max_side: int
    """Most width and height in pixels."""
    side_multiple: int
    """Width and height must be multiples of this many pixels."""
    max_images: int
    """Most images of one request."""
    max_prompt_characters: int
    """Most characters of any one prompt."""
    max_pixels: int
    """Most pixels (width times height) of an image."""
    max_refiner_steps: int | None = None
    """Most refiner steps in image-to-image mode; None if the server is too old to tell."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Defaults:
    """What an unset option means."""

    num_inference_steps: int
    """Base steps with `high_quality`."""
    guidance_scale: float
    """Guidance with `high_quality`."""
    fast_num_inference_steps: int
    """Base steps without `high_quality`."""
    fast_guidance_scale: float
    """Guidance without `high_quality`."""
    size: Size
    """Width and height in pixels."""
    scheduler: str
    """Name of the scheduler."""
    refiner_mode: RefinerMode | None
    """How the refiner is used; None if the profile has none."""
    refiner_num_inference_steps: int
    """Executed refiner steps in image-to-image mode."""
    refiner_strength: float
    """Refiner strength in image-to-image mode, 0 to 1."""
    refiner_switch_at: float
    """Where ensemble mode switches, 0 to 1."""
    aesthetic_score: float
    """Aesthetic score of the refiner, 0 to 10."""
    negative_aesthetic_score: float
    """Aesthetic score of the refiner for the negative prompt, 0 to 10."""
    refiner_guidance_scale: float | None = None
    """Guidance of the refiner; None: the base's."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ModelInfo:
    """A model profile."""

    name: str
    """Its name, as in the option `model`."""
    description: str
    """For people."""
    loaded: bool
    """Whether this server has it loaded; only loaded models can be used."""
    refiner_loaded: bool
    """Whether its refiner is loaded."""
    limits: Limits
    """Ranges that a request must keep to."""
    defaults: Defaults
    """What an unset option means."""
    schedulers: tuple[str, ...]
    """Names of the schedulers, sorted."""
    base_source: str
    """Where the base's weights come from."""
    refiner_source: str
    """Where the refiner's weights come from; empty if the profile has no refiner."""


@dataclass(kw_only=True, frozen=True, slots=True)
class DeviceInfo:
    """The device that runs the models."""

    type: str
    """cuda or cpu; fake without models."""
    name: str
    """Name of the hardware."""
    driver: str
    """Driver version; empty without a GPU."""
    total_memory_bytes: int
    """Memory of the device in bytes; of the host, without a GPU."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ComponentSize:
    """The size of one model component."""

    name: str
    """diffusers' name of the component, after its stage."""
    parameters: int
    """Number of parameters."""
    bytes: int
    """Bytes in the chosen precision."""


@dataclass(kw_only=True, frozen=True, slots=True)
class MemoryPlan:
    """How the models are laid out in memory, and why."""

    residency: Residency
    """Which models share the device."""
    precision: str
    """Arithmetic of the UNets: fp32, tf32, bf16, fp16 or fp8."""
    available_bytes: int
    """Bytes that may be used."""
    weights_bytes: int
    """Bytes that the resident weights take at most."""
    working_bytes: int
    """Bytes set aside for activations and the allocator."""
    components: tuple[ComponentSize, ...]
    """Sizes of the components."""
    explanation: str
    """What was chosen and why, for people."""
    predicted_peak_bytes: int
    """Most bytes that tensors are predicted to take on the device at one time; 0 from a server that does not tell."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ServerInfo:
    """A running server."""

    version: str
    """Version of ImageGen."""
    state: ServerState
    """Whether it takes requests."""
    model: str
    """Name of the loaded model profile."""
    device: DeviceInfo
    """The device that runs the models."""
    precision: str
    """Arithmetic of the UNets: fp32, tf32, bf16, fp16 or fp8."""
    memory_plan: MemoryPlan | None
    """How the models are laid out; None while loading."""
    packages: Mapping[str, str]
    """Versions of the packages that decide the pixels, by name."""
    queue_capacity: int
    """Generations that may wait for the device."""
    queued: int
    """Generations that wait for the device."""
    running: int
    """Generations on the device, or whose images are being encoded or sent."""
    start_time: float
    """When the process started, in seconds since the epoch."""
