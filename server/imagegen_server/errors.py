"""The server's error tree. Standard library only.

    ImageGenError
    ├── InvalidRequest            every violation of a request, at once
    ├── NotFound                  unknown model, scheduler or request id
    ├── RefinerUnavailable        the refiner is required but not loaded
    ├── AlreadyExists             a request id is in use, or was used with another body
    ├── QueueFull                 admission refused; retry later
    ├── QuotaExceeded             the caller's tenant has used up what it may; retry later
    ├── Unauthenticated           credentials are missing, wrong or expired
    ├── PermissionDenied          the caller is known, but may not do this
    ├── DeadlineExceeded          cannot be met, or has passed
    ├── Cancelled                 by its caller
    ├── Unavailable               loading, draining or device lost
    ├── ReplyTooLarge             an answer that cannot be one message
    ├── EventsNotKept             events that a watcher asks for are gone
    ├── StageError                a device stage failed
    │   ├── OutOfDeviceMemory
    │   ├── NonFinite
    │   └── DeviceLost
    └── StartupError              the server cannot start: configuration, weights, memory
        ├── DoesNotFit            the memory plan cannot be met
        └── WeightsUnavailable    disk, network or files are missing

Messages are written for the caller: no stack, no path of the server, no prompt.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from imagegen_server.core import Stage


class ImageGenError(Exception):
    """Base of everything the server raises on purpose."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request."""

    field: str
    """Path of the field, as in the contract: `refiner.strength`."""
    description: str
    """What is allowed, and what was sent."""


def bare(error: Exception) -> ImageGenError:
    """Returns the same error without traceback, cause and context, which hold on to frames and what is in them.

    For errors that are kept. One that the server does not raise on purpose becomes a plain `ImageGenError`.
    """
    if not isinstance(error, ImageGenError):
        return ImageGenError(type(error).__name__)
    copied = type(error).__new__(type(error))
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    return copied


class InvalidRequest(ImageGenError):
    """The request breaks the contract; carries every violation."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class NotFound(ImageGenError):
    """Something the request names does not exist."""

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """model, scheduler or generation."""
        self.name = name


class RefinerUnavailable(ImageGenError):
    """The refiner is required but not loaded."""


class AlreadyExists(ImageGenError):
    """A request id is in use, or was used with another body."""

    def __init__(self, request_id: str, message: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class QueueFull(ImageGenError):
    """The queue is full."""

    def __init__(self, capacity: int, retry_after: float) -> None:
        super().__init__(f"the queue is full: {capacity} generations are waiting")
        self.capacity = capacity
        self.retry_after = retry_after
        """Seconds."""


class QuotaReason(enum.StrEnum):
    """What a tenant has used up."""

    TENANT_CONCURRENCY = "TENANT_CONCURRENCY"
    """The generations that it may have in flight."""
    TENANT_STEP_RATE = "TENANT_STEP_RATE"
    """The steps that it may use in a time."""


class QuotaExceeded(ImageGenError):
    """The caller's tenant has used up what it may."""

    def __init__(self, reason: QuotaReason, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        """Seconds."""


class CredentialsReason(enum.StrEnum):
    """Why credentials do not tell who calls; with `forbidden`, the closed set of a metric's label `reason`."""

    MISSING = "missing"
    INVALID = "invalid"
    EXPIRED = "expired"


class Unauthenticated(ImageGenError):
    """Nobody that the server knows is calling. The message has nothing of the credentials."""

    def __init__(self, reason: CredentialsReason, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.detail = detail
        """More, for the operator; not told to the caller."""


class PermissionDenied(ImageGenError):
    """The caller is known, but may not make this call."""


class DeadlineExceeded(ImageGenError):
    """A deadline cannot be met (refused at admission) or has passed (while queued or running)."""

    def __init__(
        self,
        message: str,
        *,
        estimate: float | None = None,
        remaining: float | None = None,
        stage: Stage | None = None,
        step: int | None = None,
    ) -> None:
        super().__init__(message)
        self.estimate = estimate
        """Seconds the generation would take; set at admission."""
        self.remaining = remaining
        """Seconds that the caller left; set at admission."""
        self.stage = stage
        """Stage that was reached; set when it passed."""
        self.step = step
        """Steps of that stage that were executed."""


def deadline_passed(stage: Stage, step: int) -> DeadlineExceeded:
    """Returns what a generation ends with whose time is up in a stage, after so many of its steps."""
    return DeadlineExceeded(f"the deadline passed in stage {stage} after {step} steps", stage=stage, step=step)


class Cancelled(ImageGenError):
    """The generation was stopped by its caller."""


RETRY_AFTER: Final = 5.0
"""Seconds after which the caller of a server that is not available may try again: there, once it has started anew or
has what it lacks, or at another one that the caller is sent to."""


class UnavailableReason(enum.StrEnum):
    """Why a server is not available."""

    LOADING = "LOADING"
    DRAINING = "DRAINING"
    DEVICE_LOST = "DEVICE_LOST"
    TOKEN_KEYS = "TOKEN_KEYS"  # noqa: S105 - the name of a reason
    """It has no keys to verify tokens with."""


class Unavailable(ImageGenError):
    """The server does not take the request now; another may, or this one later."""

    def __init__(self, reason: UnavailableReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = RETRY_AFTER
        """Seconds."""


class ReplyTooLarge(ImageGenError):
    """The images that were asked for in one answer do not fit into one message."""


class EventsNotKept(ImageGenError):
    """Events that a watcher asks for are not kept, or not any more."""

    def __init__(self, message: str, *, first_kept: int | None = None) -> None:
        super().__init__(message)
        self.first_kept = first_kept
        """Sequence of the first event that is kept; None if none is."""


class StageError(ImageGenError):
    """A device stage failed for one or more jobs."""


class OutOfDeviceMemory(StageError):
    """The device ran out of memory."""


class NonFinite(StageError):
    """A stage produced NaN or infinity."""


class DeviceLost(StageError):
    """The device cannot be used any more by this process."""


class StartupError(ImageGenError):
    """The server cannot start."""


class DoesNotFit(StartupError):
    """The model does not fit in the memory that may be used; the message has the numbers."""


class WeightsUnavailable(StartupError):
    """Weights cannot be had: disk, network or files are missing."""


def details_of(error: Exception) -> tuple[str, ...]:
    """Returns what exactly a refusal is about, in the server's own words.

    The fields that are wrong by their names in the contract, or the reason within a kind of error; never a value.
    """
    match error:
        case InvalidRequest():
            found = [violation.field for violation in error.violations]
        case NotFound():
            found = [error.kind]
        case AlreadyExists():
            found = ["request_id"]
        case RefinerUnavailable():
            found = ["refiner"]
        case QuotaExceeded() | Unauthenticated() | Unavailable():
            found = [error.reason.value]
        case PermissionDenied():
            found = ["forbidden"]
        case _:
            found = []
    return tuple(dict.fromkeys(found))
