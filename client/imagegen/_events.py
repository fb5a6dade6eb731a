"""What happens to a generation, as `Client.generate` yields it."""

from __future__ import annotations

from dataclasses import dataclass, field

from imagegen._enums import Stage
from imagegen._options import Size
from imagegen._results import Fallback, GeneratedImage, GenerationPlan, GenerationWarning, StageTiming


@dataclass(kw_only=True, frozen=True, slots=True)
class EventBase:
    """What every event carries."""

    request_id: str
    """The generation."""
    sequence: int
    """Position in the generation's stream, increasing; numbers are skipped where progress was coalesced."""
    event_time: float
    """When it happened by the server's clock, in seconds since the epoch."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Accepted(EventBase):
    """The generation was admitted (or, from `plan`, would be valid). Always first."""

    plan: GenerationPlan
    """What will be executed."""
    queue_position: int
    """Generations ahead of this one in the queue."""
    estimated_queue_wait: float
    """Seconds until the device begins, as estimated."""
    estimated_duration: float
    """Seconds from the first to the last device work, as estimated."""


@dataclass(kw_only=True, frozen=True, slots=True)
class QueueUpdate(EventBase):
    """The position in the queue changed."""

    position: int
    """Generations ahead of this one in the queue."""
    estimated_wait: float
    """Seconds until the device begins, as estimated."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StageStarted(EventBase):
    """A stage began."""

    stage: Stage
    """The stage."""
    image_index: int | None
    """Index of the image, from 0; None for stages that the images share."""
    total_steps: int
    """Steps that the stage will execute; 0 for stages without steps."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StepProgress(EventBase):
    """Steps were executed."""

    stage: Stage
    """base or refiner."""
    image_index: int
    """Index of the image, from 0."""
    completed_steps: int
    """Steps executed so far in this stage."""
    total_steps: int
    """Steps that the stage will execute."""
    overall_fraction: float
    """Part of the whole generation's device time that is done, 0 to 1."""
    eta: float | None
    """Seconds until the generation's device work ends, as estimated; None if unknown."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StageCompleted(EventBase):
    """A stage ended."""

    stage: Stage
    """The stage."""
    image_index: int | None
    """Index of the image, from 0; None for stages that the images share."""
    duration: float
    """Seconds from the stage's start to its end."""
    steps: int
    """Steps executed."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Preview(EventBase):
    """A small picture of the unfinished image."""

    stage: Stage
    """base or refiner."""
    image_index: int
    """Index of the image, from 0."""
    completed_steps: int
    """Steps executed when it was taken."""
    mime_type: str
    """Media type of `data`."""
    data: bytes = field(repr=False)
    """The file."""
    size: Size
    """Its size in pixels."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ImageHeader(EventBase):
    """An image is ready; its bytes are on their way."""

    image_index: int
    """Index of the image, from 0."""
    mime_type: str
    """Media type of the file."""
    size_bytes: int
    """Size of the file in bytes."""
    sha256: str
    """SHA-256 of the file, 64 lower-case hexadecimal digits."""
    seed: int
    """Seed that made it."""
    size: Size
    """Its size in pixels."""
    refined: bool
    """Whether the refiner's result is shown."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ImageReceived(EventBase):
    """An image has arrived, whole and verified."""

    image: GeneratedImage
    """The image, still without `timings`: the generation may go on."""


@dataclass(kw_only=True, frozen=True, slots=True)
class FallbackTaken(EventBase):
    """The server departed from the plan."""

    fallback: Fallback
    """What it did and why."""


@dataclass(kw_only=True, frozen=True, slots=True)
class WarningIssued(EventBase):
    """Something the caller should know, while the generation goes on."""

    warning: GenerationWarning
    """What it is."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Completed(EventBase):
    """The generation has ended well. Always last."""

    stage_timings: tuple[StageTiming, ...]
    """Time spent in each stage."""
    total_duration: float
    """Seconds from admission to the last image's last chunk."""
    peak_memory_bytes: int | None
    """Most device memory that the server's process held meanwhile, in bytes; None without a GPU."""
    fallbacks: tuple[Fallback, ...]
    """Fallbacks that were taken."""
    images: tuple[GeneratedImage, ...]
    """The images in order, complete with timings."""
    device_seconds: float = 0.0
    """Device time: the generation's share, by rows, of the turns it took part in; 0 from servers that do not tell."""
    wasted_device_seconds: float = 0.0
    """The part of it that went into a stage whose result was given up, such as a refiner that failed."""
    energy_joules: float | None = None
    """The same share of the energy that the GPU used in these turns; None where the GPU does not tell."""
    images_per_joule: float | None = None
    """Images for each joule; None where the energy is not known, or 0."""


Event = (
    Accepted
    | QueueUpdate
    | StageStarted
    | StepProgress
    | StageCompleted
    | Preview
    | ImageHeader
    | ImageReceived
    | FallbackTaken
    | WarningIssued
    | Completed
)
"""Anything that `Client.generate` yields. Newer servers may send events that this client skips."""
