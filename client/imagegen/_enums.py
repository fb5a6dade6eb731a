"""The closed sets of the contract as string enums. Values are the proto's names without their prefix, lower case.

`UNKNOWN` stands for a value that the server left unset, or that is newer than this client.
"""

from __future__ import annotations

import enum


class Stage(enum.StrEnum):
    """A part of a generation's life in which time is spent."""

    UNKNOWN = "unknown"
    """Not set, or newer than this client."""
    QUEUED = "queued"
    """Waiting for the device."""
    TEXT_ENCODE = "text_encode"
    """Prompts to embeddings."""
    BASE = "base"
    """Denoising steps of the base model."""
    REFINER = "refiner"
    """Denoising steps of the refiner."""
    VAE_DECODE = "vae_decode"
    """Latent to pixels."""
    IMAGE_ENCODE = "image_encode"
    """Pixels to a file format."""
    SEND = "send"
    """File bytes to the caller."""


class RefinerMode(enum.StrEnum):
    """How the base's latent is handed to the refiner."""

    UNKNOWN = "unknown"
    """Newer than this client."""
    IMAGE_TO_IMAGE = "image_to_image"
    """The refiner adds noise to the finished latent and denoises it again."""
    ENSEMBLE = "ensemble"
    """One schedule is split between base and refiner."""


class Priority(enum.StrEnum):
    """Who waits for the result."""

    INTERACTIVE = "interactive"
    """A person is waiting."""
    BATCH = "batch"
    """Nobody is waiting."""


class OnDisconnect(enum.StrEnum):
    """What becomes of a generation whose call ends before it does."""

    UNKNOWN = "unknown"
    """Newer than this client."""
    STOP = "stop"
    """It is stopped within one step."""
    CONTINUE = "continue"
    """It goes on, and its events are kept for `Client.watch`; `Client.cancel` stops it."""


class FallbackKind(enum.StrEnum):
    """A departure from the plan that the server may take instead of failing."""

    UNKNOWN = "unknown"
    """Not set, or newer than this client."""
    REFINER_TO_BASE = "refiner_to_base"
    """The base's latent is decoded instead of the refiner's."""
    TILED_DECODE = "tiled_decode"
    """The image is decoded in overlapping tiles, whose blended seams differ a little from a whole decode."""


class FallbackReason(enum.StrEnum):
    """Why a fallback was taken."""

    UNKNOWN = "unknown"
    """Not set, or newer than this client."""
    OOM = "oom"
    """The device ran out of memory."""
    ERROR = "error"
    """The stage raised an error."""
    NAN = "nan"
    """The stage produced non-finite numbers."""
    DEADLINE = "deadline"
    """The deadline left no time for the stage."""
    NOT_LOADED = "not_loaded"
    """The stage's model is not loaded on this server."""


class WarningCode(enum.StrEnum):
    """What a warning is about."""

    UNKNOWN = "unknown"
    """Not set, or newer than this client."""
    PROMPT_TRUNCATED = "prompt_truncated"
    """The prompt is longer than a text encoder's window."""
    IMAGE_NOT_KEPT = "image_not_kept"
    """The server keeps results, but could not keep this image in time: it has no URL."""


class GenerationState(enum.StrEnum):
    """The state of a generation."""

    UNKNOWN = "unknown"
    """Not set, or newer than this client."""
    QUEUED = "queued"
    """Admitted, waiting for the device."""
    RUNNING = "running"
    """On the device, or being encoded or sent."""
    COMPLETED = "completed"
    """All images were produced."""
    CANCELLED = "cancelled"
    """Stopped by its caller."""
    FAILED = "failed"
    """Ended with an error, its deadline included."""


class ServerState(enum.StrEnum):
    """Whether the server takes requests."""

    UNKNOWN = "unknown"
    """Not set, or newer than this client."""
    LOADING = "loading"
    """Loading models."""
    SERVING = "serving"
    """Taking requests."""
    DRAINING = "draining"
    """Shutting down."""


class Residency(enum.StrEnum):
    """Which models share the device at one time."""

    UNKNOWN = "unknown"
    """Not set, or newer than this client."""
    BOTH = "both"
    """Both stages' models stay on the device."""
    SWAP = "swap"
    """Only the active stage's UNet is on the device."""
