"""The words that every room shares: closed sets, many of them labels of metrics."""

from __future__ import annotations

import enum


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
    TORCHSCRIPT = "torchscript"
    """UNets are called from Python on the CPU: they could not be traced, or the trace gave other bits."""
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
    LOADING = "loading"
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
