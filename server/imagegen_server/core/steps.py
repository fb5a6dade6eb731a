"""What the device works on, turn by turn, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imagegen_server.core.devices import MemoryPlan
from imagegen_server.core.images import Pixels
from imagegen_server.core.requests import GenerationRequest
from imagegen_server.core.words import Feature, Stage


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
    preview: Callable[[], Pixels] | None = None
    """Set where `Job.preview_due` asked for it: draws the image as estimated after this evaluation, small. For another
    thread, which may have to wait for the device."""
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
    memory_plan: MemoryPlan | None = None
    """The one in force from now on, if it changed."""


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
