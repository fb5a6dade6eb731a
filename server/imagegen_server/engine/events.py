"""What happens to a generation, in the order in which its caller learns of it."""

from __future__ import annotations

__all__ = [
    "Accepted",
    "Event",
    "FallbackTaken",
    "Finished",
    "ImageKept",
    "ImageReady",
    "Numbered",
    "PreviewReady",
    "PromptTruncated",
    "QueueUpdate",
    "StageCompleted",
    "StageStarted",
    "StageTiming",
    "StepProgress",
]

from dataclasses import dataclass

from imagegen_server.core import (
    EncodedImage,
    FallbackTaken,
    KeepFailure,
    Plan,
    PromptTruncation,
    Stage,
    Usage,
)


@dataclass(kw_only=True, frozen=True, slots=True)
class Accepted:
    """The generation was admitted. Always first."""

    plan: Plan
    queue_position: int
    """Generations ahead of it in the queue."""
    estimated_wait: float
    """Seconds until its first turn."""
    estimated_duration: float
    """Seconds from its first to its last turn."""


@dataclass(kw_only=True, frozen=True, slots=True)
class QueueUpdate:
    """The position in the queue changed. Coalesced."""

    position: int
    estimated_wait: float


@dataclass(kw_only=True, frozen=True, slots=True)
class StageStarted:
    """A stage began."""

    stage: Stage
    image_index: int | None
    """None for stages that the images share."""
    total_steps: int


@dataclass(kw_only=True, frozen=True, slots=True)
class StepProgress:
    """Steps were executed. Coalesced."""

    stage: Stage
    image_index: int
    completed_steps: int
    total_steps: int
    overall_fraction: float
    """0 to 1."""
    eta: float | None
    """Seconds until the generation's device work ends."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StageCompleted:
    """A stage ended well."""

    stage: Stage
    image_index: int | None
    duration: float
    steps: int


@dataclass(kw_only=True, frozen=True, slots=True)
class PromptTruncated:
    """A prompt was cut at a text encoder's window."""

    truncation: PromptTruncation


@dataclass(kw_only=True, frozen=True, slots=True)
class ImageReady:
    """An image file is ready to be sent."""

    image_index: int
    image: EncodedImage
    seed: int
    width: int
    height: int
    refined: bool
    """Whether the refiner's result is shown."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ImageKept:
    """An image was kept where its caller can fetch it later, or could not be. After its ImageReady, once for each.

    Only where results are kept.
    """

    image_index: int
    url: str
    """Where it can be fetched from now on; empty if it cannot."""
    failure: KeepFailure | None = None
    """Why it was not kept."""


@dataclass(kw_only=True, frozen=True, slots=True)
class PreviewReady:
    """A small picture of an unfinished image. Coalesced."""

    stage: Stage
    image_index: int
    completed_steps: int
    image: EncodedImage
    width: int
    height: int


@dataclass(kw_only=True, frozen=True, slots=True)
class StageTiming:
    """How long a stage took over all images."""

    stage: Stage
    duration: float
    """Seconds from the first image's start to the last image's end."""
    steps: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Finished:
    """The engine's work on the generation is over. Always last; exactly once."""

    error: Exception | None
    """None if every image was produced."""
    stage_timings: tuple[StageTiming, ...]
    """Every stage entered, without `send`."""
    usage: Usage
    """What it took from the device."""
    fallbacks: tuple[FallbackTaken, ...]


Event = (
    Accepted
    | QueueUpdate
    | StageStarted
    | StepProgress
    | StageCompleted
    | FallbackTaken
    | PromptTruncated
    | PreviewReady
    | ImageReady
    | ImageKept
    | Finished
)


@dataclass(kw_only=True, frozen=True, slots=True)
class Numbered:
    """An event with its place in the generation's stream."""

    sequence: int
    """Increasing from 1; numbers are skipped where events were coalesced."""
    time: float
    """Seconds since the epoch."""
    event: Event
