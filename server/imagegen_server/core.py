"""The nouns that every room of the server shares. Standard library only.

Units: durations and times are seconds (`time.monotonic()` for instants), sizes are pixels or bytes as named.
A request here is complete: `api` has validated it and filled every default.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Stage(enum.StrEnum):
    """A part of a generation's life in which time is spent."""

    QUEUED = "queued"
    TEXT_ENCODE = "text_encode"
    BASE = "base"
    REFINER = "refiner"
    VAE_DECODE = "vae_decode"
    IMAGE_ENCODE = "image_encode"
    SEND = "send"


STEP_STAGES = (Stage.BASE, Stage.REFINER)
"""The stages that consist of denoising steps."""


class RefinerMode(enum.StrEnum):
    """How the base's latent is handed to the refiner."""

    IMAGE_TO_IMAGE = "image_to_image"
    ENSEMBLE = "ensemble"


class Priority(enum.StrEnum):
    """Who waits for the result."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class FallbackKind(enum.StrEnum):
    """A departure from the plan that may be taken instead of failing."""

    REFINER_TO_BASE = "refiner_to_base"
    TILED_DECODE = "tiled_decode"


class FallbackReason(enum.StrEnum):
    """Why a fallback was taken."""

    OOM = "oom"
    ERROR = "error"
    NAN = "nan"
    DEADLINE = "deadline"
    NOT_LOADED = "not_loaded"


class Feature(enum.StrEnum):
    """What the server can do without while it serves; the closed set of the `feature` label."""

    REFINER = "refiner"
    """The refiner is not loaded."""
    BATCH_ROWS = "batch_rows"
    """Batches are smaller than they should be: more did not fit into the device's memory."""
    CUDA_GRAPHS = "cuda_graphs"
    """UNet evaluations are launched kernel by kernel: graphs could not be captured, or their memory was needed."""
    COMPILE = "compile"
    """The tuning's compiled code is not used: it could not be made."""
    FULL_DECODE = "full_decode"
    """Images of some size are decoded in tiles: whole ones did not fit into the device's memory."""
    RESIDENCY = "residency"
    """Parts of the model take turns on the device that were planned to stay there: the memory was needed."""


class Outcome(enum.StrEnum):
    """How a generation ended; the closed set of the `outcome` label."""

    OK = "ok"
    DEGRADED = "degraded"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    REJECTED = "rejected"
    INVALID = "invalid"
    ERROR = "error"


class RejectReason(enum.StrEnum):
    """Why a request was refused; the closed set of the `reason` label."""

    QUEUE_FULL = "queue_full"
    QUOTA = "quota"
    DRAINING = "draining"
    DEADLINE = "deadline"
    INVALID = "invalid"
    AUTH = "auth"


class KeepFailure(enum.StrEnum):
    """Why an image could not be kept."""

    FULL = "full"
    """No room: the store's own limit, the disk or a quota."""
    DENIED = "denied"
    """The store may not be written to."""
    MISSING = "missing"
    """The directory or bucket is gone."""
    TIMEOUT = "timeout"
    """The write took too long."""
    BUSY = "busy"
    """Too many writes were waiting."""
    ERROR = "error"
    """Anything else."""


class GenerationState(enum.StrEnum):
    """Where a generation is."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Precision(enum.StrEnum):
    """Arithmetic of the UNets. tf32 stores fp32 and multiplies in TF32; fp8 is bf16 with some layers in fp8."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"


class Residency(enum.StrEnum):
    """Which models share the device at one time."""

    BOTH = "both"
    SWAP = "swap"


@dataclass(kw_only=True, frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int


@dataclass(kw_only=True, frozen=True, slots=True)
class MicroConditioning:
    """SDXL's size and crop conditioning. Sizes and crops are (height, width) and (top, left) as in diffusers.

    None means diffusers' own default: the requested size, or no separate negative conditioning.
    """

    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    negative_original_size: tuple[int, int] | None = None
    negative_crops_coords_top_left: tuple[int, int] = (0, 0)
    negative_target_size: tuple[int, int] | None = None


@dataclass(kw_only=True, frozen=True, slots=True)
class RefinerSettings:
    """The refiner stage of one request. None in a field that the mode does not use."""

    mode: RefinerMode
    num_inference_steps: int | None
    """Executed steps; image-to-image only."""
    strength: float | None
    """0 < strength <= 1; image-to-image only."""
    switch_at: float | None
    """0 < switch_at < 1; ensemble only."""
    guidance_scale: float
    aesthetic_score: float
    negative_aesthetic_score: float
    prompt: str
    """Empty: the base's prompt."""


@dataclass(kw_only=True, frozen=True, slots=True)
class OutputSettings:
    """The file format of the result."""

    mime_type: str
    """image/png, image/jpeg or image/webp."""
    quality: int
    """1 to 100; unused for PNG."""
    embed_parameters: bool


@dataclass(kw_only=True, frozen=True, slots=True)
class GenerationRequest:
    """What one caller asked for, complete and valid."""

    request_id: str
    model: str
    prompt: str
    prompt_2: str
    """Empty: prompt."""
    negative_prompt: str | None
    negative_prompt_2: str
    """Empty: negative_prompt."""
    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    num_images: int
    seed: int
    """Seed of image 0; image i uses seed + i."""
    scheduler: str
    use_refinement: bool
    refiner: RefinerSettings | None
    """None exactly if use_refinement is false."""
    micro_conditioning: MicroConditioning
    output: OutputSettings
    min_progress_interval: float
    preview_count: int = 0
    """Previews of each image."""
    priority: Priority
    allowed_fallbacks: frozenset[FallbackKind]
    isolate_batch: bool
    outlives_call: bool = False
    """Whether it goes on to its end when the call that asked for it ends before."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What is embedded in the file: JSON-able, the request's own words."""
    tenant: str = ""
    """Whose it is: a name without a meaning here; empty where callers are not told apart. Ids are the tenant's own."""
    tenant_weight: float = 1.0
    """The tenant's share of a contended device against that of others."""

    @property
    def key(self) -> tuple[str, str]:
        """What names the generation among those of all tenants."""
        return self.tenant, self.request_id


@dataclass(kw_only=True, frozen=True, slots=True)
class StagePlan:
    """What one device stage will execute for each image."""

    stage: Stage
    steps: int
    """Denoising steps; 0 for stages without steps."""
    evaluations: int
    """Turns on the device: UNet passes in step stages, 1 in the others."""
    guidance_scale: float
    """0 for stages without guidance."""

    @property
    def rows(self) -> int:
        """UNet batch rows of one evaluation: 2 if guided, else 1 (a stage without steps counts 1)."""
        return 2 if self.guidance_scale > 1.0 else 1


@dataclass(kw_only=True, frozen=True, slots=True)
class Plan:
    """What a generation will execute."""

    stages: tuple[StagePlan, ...]
    """The device stages in order: text_encode, base, refiner (unless absent), vae_decode."""
    latent_shape: tuple[int, int]
    """Height and width of the latent; jobs share a batch only at the same shape."""
    precision: Precision
    refiner_mode: RefinerMode | None
    unplanned_fallback: FallbackReason | None = None
    """Set if the refiner was asked for but cannot run (not_loaded) and the fallback is allowed."""

    def stage(self, stage: Stage) -> StagePlan:
        """Returns the plan of a stage; KeyError if the stage is not planned."""
        for planned in self.stages:
            if planned.stage is stage:
                return planned
        raise KeyError(stage)


@dataclass(kw_only=True, frozen=True, slots=True)
class Pixels:
    """A decoded image: rows of 8-bit RGB, top to bottom, `3 * width * height` bytes."""

    width: int
    height: int
    data: bytes


@dataclass(kw_only=True, frozen=True, slots=True)
class EncodedImage:
    """An image file."""

    mime_type: str
    data: bytes
    sha256: str
    """64 lower-case hexadecimal digits."""


@dataclass(kw_only=True, frozen=True, slots=True)
class PromptTruncation:
    """A prompt that was cut at a text encoder's window."""

    encoder: str
    """text_encoder or text_encoder_2."""
    stage: Stage
    """Whose prompt: base or refiner."""
    prompt_field: str
    """prompt, prompt_2, negative_prompt, negative_prompt_2 or refiner.prompt."""
    removed_text: str
    removed_tokens: int
    max_tokens: int


class Job:
    """One image of a generation, as the engine schedules it.

    The engine owns every attribute but `state`, which belongs to the runner: tensors live there and only
    `models/` opens it.
    """

    __slots__ = ("decode_from", "index", "preview_due", "request", "seed", "state")

    def __init__(self, request: GenerationRequest, index: int) -> None:
        self.request = request
        self.index = index
        self.seed = request.seed + index
        self.decode_from: Stage = Stage.REFINER if request.use_refinement else Stage.BASE
        """Whose latent vae_decode shows; the engine sets BASE when the refiner is given up."""
        self.preview_due = False
        """Whether the next evaluation's result is to carry a preview."""
        self.state: Any = None


@dataclass(kw_only=True, frozen=True, slots=True)
class TextReuse:
    """Where the embeddings of a generation's texts came from: prompts and negative prompts of both stages."""

    reused: int
    """Texts whose embeddings were remembered, or are a part of what was just encoded."""
    encoded: int
    """Texts that went through a text encoder."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StepResult:
    """What one evaluation did to one job."""

    failure: Exception | None = None
    """Why this job (and only this one) failed; an `errors.StageError` where it is known."""
    pixels: Pixels | None = None
    """Set by a successful vae_decode."""
    preview: Pixels | None = None
    """Set where `Job.preview_due` asked for it: the image as estimated after this evaluation, small."""
    truncations: tuple[PromptTruncation, ...] = ()
    """Set by text_encode, for the first job of a generation."""
    tiled: bool = False
    """Set by a vae_decode in tiles, whose blended seams differ from a whole decode."""
    text_reuse: TextReuse | None = None
    """Set by text_encode, for the first job of a generation, where embeddings are remembered."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Adaptation:
    """What a runner gave up for as long as it lives, in order to go on."""

    feature: Feature
    message: str
    """Why, for operators."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Limits:
    """Ranges that a request must keep to, bounds included. Sides in pixels."""

    min_steps: int = 20
    max_steps: int = 100
    max_refiner_steps: int = 100
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 20.0
    min_side: int = 64
    max_side: int = 2048
    max_pixels: int = 2048 * 2048
    side_multiple: int = 8
    max_images: int = 8
    max_prompt_characters: int = 2000


@dataclass(kw_only=True, frozen=True, slots=True)
class Defaults:
    """What an unset field means."""

    num_inference_steps: int = 50
    guidance_scale: float = 8.0
    fast_num_inference_steps: int = 30
    fast_guidance_scale: float = 7.5
    width: int = 1024
    height: int = 1024
    scheduler: str = "EulerDiscreteScheduler"
    refiner_mode: RefinerMode = RefinerMode.IMAGE_TO_IMAGE
    refiner_num_inference_steps: int = 30
    refiner_guidance_scale: float | None = None
    """None: the base's."""
    refiner_strength: float = 0.3
    refiner_switch_at: float = 0.8
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5


@dataclass(kw_only=True, frozen=True, slots=True)
class ModelProfile:
    """Where weights come from, with their native size, limits and defaults."""

    name: str
    description: str
    base_source: str
    refiner_source: str
    """Empty if the profile has no refiner."""
    limits: Limits
    defaults: Defaults
    schedulers: tuple[str, ...]
    """Sorted class names that load with what is installed."""
    row_budget: int = 16
    """UNet rows of one batch at the native size beyond which batching is not known to pay."""


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
    row_knees: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Rows of a batch beyond which more gain next to nothing, by latent (height, width), where that was measured."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Usage:
    """What a generation took from the device: its share, by rows, of the turns it was part of."""

    device_seconds: float
    """Seconds, the wasted ones included."""
    wasted_device_seconds: float
    """Seconds of stages whose result was given up: a refiner that failed."""
    energy_joules: float | None
    """Joules; None where the device does not tell."""
    peak_memory_bytes: int | None
    """Most device memory that the process held in tensors meanwhile; None without a GPU."""
