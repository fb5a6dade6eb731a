"""What the calls that answer once say of a generation: `Client.render` and `Client.get`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from imagegen._enums import GenerationState, OnDisconnect, Stage
from imagegen._files import write_atomically
from imagegen._results import Fallback, GenerationPlan, GenerationWarning, StageTiming


@dataclass(kw_only=True, frozen=True, slots=True)
class RenderedImage:
    """One produced image: its facts, where it can be fetched, and its file if that was asked for."""

    image_index: int
    """Index of the image, from 0."""
    seed: int
    """Seed that made it."""
    sha256: str
    """SHA-256 of the file, 64 lower-case hexadecimal digits."""
    size_bytes: int
    """Size of the file in bytes."""
    refined: bool
    """Whether the refiner's result is shown."""
    mime_type: str
    """Media type of the file."""
    url: str
    """Where the file can be fetched; empty if the server does not keep results."""
    data: bytes | None = field(default=None, repr=False)
    """The file, verified against `sha256`; None if it was not asked for."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file to `path`, whole or not at all, replacing what is there; returns the path.

        Raises ValueError if the bytes were not asked for, and OSError as the file system does.
        """
        if self.data is None:
            raise ValueError("the image's bytes were not asked for: render(..., include_image_data=True)")
        return write_atomically(Path(path), self.data)


@dataclass(kw_only=True, frozen=True, slots=True)
class GenerationOutcome:
    """How a generation that ended well went."""

    stage_timings: tuple[StageTiming, ...]
    """Time spent in each stage."""
    total_duration: float
    """Seconds from admission to the last image."""
    peak_memory_bytes: int | None
    """Most device memory that the server's process held meanwhile, in bytes; None without a GPU."""
    fallbacks: tuple[Fallback, ...]
    """Fallbacks that were taken."""
    device_seconds: float
    """Device time: the generation's share, by rows, of the turns it took part in."""
    wasted_device_seconds: float
    """The part of it that went into a stage whose result was given up, such as a refiner that failed."""
    energy_joules: float | None
    """The same share of the energy that the GPU used in these turns; None where the GPU does not tell."""
    images_per_joule: float | None
    """Images for each joule; None where the energy is not known, or 0."""


@dataclass(kw_only=True, frozen=True, slots=True)
class RenderResult:
    """The whole result of a generation, in one answer."""

    request_id: str
    """The generation."""
    plan: GenerationPlan
    """What was executed."""
    images: tuple[RenderedImage, ...]
    """The images, in order."""
    outcome: GenerationOutcome
    """How it went."""
    warnings: tuple[GenerationWarning, ...]
    """What the caller should know, such as prompts that were cut."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GenerationFailure:
    """Why a generation failed or was stopped."""

    code: grpc.StatusCode
    """The status that its call ended with."""
    reason: str
    """In upper case, for programs: CANCELLED, GPU_OUT_OF_MEMORY ..."""
    message: str
    """For people."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GenerationInfo:
    """A running or recent generation, as the server describes it."""

    request_id: str
    """The generation."""
    state: GenerationState
    """Where it is."""
    plan: GenerationPlan
    """What it executes."""
    stage: Stage
    """The stage of the image that is furthest behind; for one that has ended, the stage in which it ended."""
    overall_fraction: float
    """Part of the estimated device time that is done, 0 to 1."""
    images: tuple[RenderedImage, ...]
    """The images that were produced so far, in order, without their bytes."""
    outcome: GenerationOutcome | None
    """How it went; None unless it has completed."""
    failure: GenerationFailure | None
    """Why it failed or was cancelled; None otherwise."""
    create_time: float
    """When it was admitted by the server's clock, in seconds since the epoch."""
    end_time: float | None
    """When it ended; None while it has not."""
    on_disconnect: OnDisconnect
    """What becomes of it if its call ends before it does."""
