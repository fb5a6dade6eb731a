"""What is known of one generation, for whoever asks by its id: no prompt, no file, no tensor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from imagegen_server.core import GenerationRequest, GenerationState, Plan, Stage
from imagegen_server.engine.events import Finished, ImageReady


@dataclass(kw_only=True, frozen=True, slots=True)
class ImageFacts:
    """One produced image without its bytes."""

    image_index: int
    mime_type: str
    size_bytes: int
    sha256: str
    seed: int
    refined: bool
    """Whether the refiner's result is shown."""
    url: str = ""
    """Where the file can be fetched; empty where it is not kept, or not yet."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Report:
    """A generation at one moment; what is kept of it once it has ended."""

    request: GenerationRequest
    """What was asked for, without its texts."""
    fingerprint: bytes
    """Of the request's body."""
    plan: Plan
    state: GenerationState
    stage: Stage
    """The stage of the image that is furthest behind; the one in which it ended, once it has."""
    step: int
    """Denoising steps of that stage that the image furthest behind has executed."""
    fraction: float
    """Part of the estimated device time that is done; 0 to 1."""
    images: tuple[ImageFacts, ...]
    """Produced so far, by index."""
    finished: Finished
    """Timings (`send` included), usage, fallbacks and error, as of this moment."""
    elapsed: float
    """Seconds since admission, until the end or the delivery of everything."""
    created: float
    """When it was admitted, in seconds since the epoch."""
    ended: float | None
    """When it ended, or was stopped; None while it has not."""


def facts(event: ImageReady) -> ImageFacts:
    """Returns what is remembered of an image."""
    return ImageFacts(
        image_index=event.image_index,
        mime_type=event.image.mime_type,
        size_bytes=len(event.image.data),
        sha256=event.image.sha256,
        seed=event.seed,
        refined=event.refined,
    )


def without_texts(request: GenerationRequest) -> GenerationRequest:
    """Returns a request that has everything but its prompts and what would be embedded in its files."""
    refiner = None if request.refiner is None else dataclasses.replace(request.refiner, prompt="")
    return dataclasses.replace(
        request,
        prompt="",
        prompt_2="",
        negative_prompt=None,
        negative_prompt_2="",
        refiner=refiner,
        parameters={},
    )
