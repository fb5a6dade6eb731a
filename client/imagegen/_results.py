"""What a generation will do, did and produced."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from imagegen._enums import FallbackKind, FallbackReason, RefinerMode, Stage, WarningCode
from imagegen._files import write_atomically
from imagegen._options import Size


@dataclass(kw_only=True, frozen=True, slots=True)
class StagePlan:
    """What one stage will execute, for each image."""

    stage: Stage
    """text_encode, base, refiner or vae_decode."""
    steps: int
    """Denoising steps, exact; 0 for stages without steps."""
    evaluations: int
    """Passes through the stage's UNet, exact."""
    guidance_scale: float
    """Guidance in force; 0 for stages without guidance."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GenerationPlan:
    """What a generation will execute."""

    model: str
    """Name of the model profile."""
    seed: int
    """Seed of image 0; image i uses seed + i."""
    size: Size
    """Size of each image in pixels."""
    num_images: int
    """Number of images."""
    scheduler: str
    """Name of the scheduler, for both stages."""
    stages: tuple[StagePlan, ...]
    """The device stages in order."""
    refiner_mode: RefinerMode | None
    """How the refiner is used; None if it is not."""
    precision: str
    """Arithmetic of the UNets: fp32, tf32, bf16, fp16 or fp8."""
    allowed_fallbacks: tuple[FallbackKind, ...]
    """Fallbacks that may be taken."""
    mime_type: str
    """Media type of the result."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Fallback:
    """A departure from the plan that the server took."""

    image_index: int
    """Index of the image, from 0."""
    from_stage: Stage
    """The stage that was left."""
    to_stage: Stage
    """The stage whose result is used instead."""
    reason: FallbackReason
    """Why."""
    kind: FallbackKind
    """The kind, as in `allowed_fallbacks`."""
    message: str
    """For people: what happened."""


@dataclass(kw_only=True, frozen=True, slots=True)
class PromptTruncation:
    """A prompt that was cut at a text encoder's window."""

    encoder: str
    """text_encoder or text_encoder_2."""
    stage: Stage
    """Whose prompt: base or refiner."""
    field: str
    """The option that was cut: prompt, prompt_2, negative_prompt, negative_prompt_2 or refiner.prompt."""
    removed_text: str
    """The text that was cut, as the tokenizer reads it."""
    removed_tokens: int
    """Tokens that were cut."""
    max_tokens: int
    """Tokens that fit, the start and end markers included."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GenerationWarning:
    """Something the caller should know, while the generation goes on."""

    code: WarningCode
    """What it is about."""
    message: str
    """For people."""
    truncation: PromptTruncation | None
    """Set for `WarningCode.PROMPT_TRUNCATED`."""
    image_index: int | None = None
    """Index of the image, from 0; set for `WarningCode.IMAGE_NOT_KEPT`."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StageTiming:
    """How long a stage took, over all images."""

    stage: Stage
    """The stage."""
    duration: float
    """Seconds from the first image's start to the last image's end."""
    steps: int
    """Steps executed, over all images."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GeneratedImage:
    """One produced image: its file, verified against the server's hash, and how it was made."""

    request_id: str
    """The generation."""
    image_index: int
    """Index of the image, from 0."""
    data: bytes = field(repr=False)
    """The file."""
    mime_type: str
    """Media type of the file."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    seed: int
    """Seed that made it."""
    sha256: str
    """SHA-256 of `data`, 64 lower-case hexadecimal digits."""
    refined: bool
    """Whether the refiner's result is shown."""
    plan: GenerationPlan
    """What the generation was to execute. Empty (no model, no stages) where `watch` began after the plan, which the
    server has forgotten."""
    timings: tuple[StageTiming, ...] = ()
    """Time spent in each stage. Empty until the generation has completed."""
    total_duration: float | None = None
    """Seconds from admission to the last chunk, or to where the file is kept, if that is later.

    None until the generation has completed."""
    url: str = ""
    """Where the file can be fetched. Empty until the generation has completed, and where the server keeps none."""
    fallbacks: tuple[Fallback, ...] = ()
    """Fallbacks that were taken for this image."""
    warnings: tuple[GenerationWarning, ...] = ()
    """Warnings of the generation."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file to `path`, whole or not at all, replacing what is there; returns the path.

        Raises OSError as the file system does. The folder must exist.
        """
        return write_atomically(Path(path), self.data)
