"""One table: which status a domain error becomes, with which details.

Whatever is not a domain error is a bug: INTERNAL with a fixed message, so that no internals leave the process.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from imagegen_server import errors

DOMAIN: Final = "imagegen.v1"
MAX_MESSAGE: Final = 400
"""UTF-8 bytes of a status message; it travels twice, once percent-encoded."""


class Reason(enum.StrEnum):
    """`ErrorInfo.reason`: stable, for programs. All there are, with `errors.QuotaReason` and `.UnavailableReason`."""

    INVALID_REQUEST = "INVALID_REQUEST"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    SCHEDULER_NOT_FOUND = "SCHEDULER_NOT_FOUND"
    GENERATION_NOT_FOUND = "GENERATION_NOT_FOUND"
    NOT_FOUND = "NOT_FOUND"
    REFINER_NOT_LOADED = "REFINER_NOT_LOADED"
    REQUEST_ID_IN_USE = "REQUEST_ID_IN_USE"
    QUEUE_FULL = "QUEUE_FULL"
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    CREDENTIALS_EXPIRED = "CREDENTIALS_EXPIRED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    DEADLINE_CANNOT_BE_MET = "DEADLINE_CANNOT_BE_MET"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    CANCELLED = "CANCELLED"
    REPLY_TOO_LARGE = "REPLY_TOO_LARGE"
    EVENTS_NOT_KEPT = "EVENTS_NOT_KEPT"
    GPU_OUT_OF_MEMORY = "GPU_OUT_OF_MEMORY"
    NUMERIC = "NUMERIC"
    DEVICE_LOST = "DEVICE_LOST"
    STAGE_FAILED = "STAGE_FAILED"
    NOT_STARTED = "NOT_STARTED"
    NOT_SERVED_YET = "NOT_SERVED_YET"
    METHOD_NOT_FOUND = "METHOD_NOT_FOUND"
    INTERNAL = "INTERNAL"


@dataclass(kw_only=True, frozen=True, slots=True)
class RpcFailure:
    """What one call ends with."""

    code: grpc.StatusCode
    reason: str
    message: str
    """For people, without internals."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of the ErrorInfo."""
    details: tuple[Message, ...] = ()
    """In addition to ErrorInfo and RequestInfo."""
    retry_after: float | None = None
    """Seconds; None if a retry is not advised."""


Row = Callable[[Any], RpcFailure]


def _invalid_request(error: errors.InvalidRequest) -> RpcFailure:
    count = len(error.violations)
    listed = "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in error.violations)
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description) for v in error.violations
    ]
    return RpcFailure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason=Reason.INVALID_REQUEST,
        message=listed if count == 1 else f"{count} violations: {listed}",
        details=(error_details_pb2.BadRequest(field_violations=violations),),
    )


_NOT_FOUND_REASONS: Final = {
    "model": Reason.MODEL_NOT_FOUND,
    "scheduler": Reason.SCHEDULER_NOT_FOUND,
    "generation": Reason.GENERATION_NOT_FOUND,
}


def _not_found(error: errors.NotFound) -> RpcFailure:
    return RpcFailure(
        code=grpc.StatusCode.NOT_FOUND,
        reason=_NOT_FOUND_REASONS.get(error.kind, Reason.NOT_FOUND),
        message=str(error),
        details=(_resource(error.kind, error.name, str(error)),),
    )


def _refiner_unavailable(error: errors.RefinerUnavailable) -> RpcFailure:
    violation = error_details_pb2.PreconditionFailure.Violation(
        type="MODEL_LOADED", subject="refiner", description=cut(str(error))
    )
    return RpcFailure(
        code=grpc.StatusCode.FAILED_PRECONDITION,
        reason=Reason.REFINER_NOT_LOADED,
        message=str(error),
        details=(error_details_pb2.PreconditionFailure(violations=[violation]),),
    )


def _already_exists(error: errors.AlreadyExists) -> RpcFailure:
    return RpcFailure(
        code=grpc.StatusCode.ALREADY_EXISTS,
        reason=Reason.REQUEST_ID_IN_USE,
        message=str(error),
        details=(_resource("generation", error.request_id, str(error)),),
    )


def _queue_full(error: errors.QueueFull) -> RpcFailure:
    return RpcFailure(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason=Reason.QUEUE_FULL,
        message=str(error),
        metadata={"capacity": str(error.capacity)},
        retry_after=error.retry_after,
    )


def _quota_exceeded(error: errors.QuotaExceeded) -> RpcFailure:
    return RpcFailure(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason=error.reason,
        message=str(error),
        retry_after=error.retry_after,
    )


_CREDENTIALS_REASONS: Final = {
    errors.CredentialsReason.MISSING: Reason.CREDENTIALS_MISSING,
    errors.CredentialsReason.INVALID: Reason.CREDENTIALS_INVALID,
    errors.CredentialsReason.EXPIRED: Reason.CREDENTIALS_EXPIRED,
}


def _unauthenticated(error: errors.Unauthenticated) -> RpcFailure:
    return RpcFailure(
        code=grpc.StatusCode.UNAUTHENTICATED,
        reason=_CREDENTIALS_REASONS[error.reason],
        message=str(error),
    )


def _deadline_exceeded(error: errors.DeadlineExceeded) -> RpcFailure:
    known = {
        "estimate_seconds": None if error.estimate is None else f"{error.estimate:.3f}",
        "remaining_seconds": None if error.remaining is None else f"{error.remaining:.3f}",
        "stage": None if error.stage is None else str(error.stage),
        "step": None if error.step is None else str(error.step),
    }
    return RpcFailure(
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
        reason=Reason.DEADLINE_PASSED if error.estimate is None else Reason.DEADLINE_CANNOT_BE_MET,
        message=str(error),
        metadata={key: value for key, value in known.items() if value is not None},
    )


def _events_not_kept(error: errors.EventsNotKept) -> RpcFailure:
    first = error.first_kept
    return RpcFailure(
        code=grpc.StatusCode.OUT_OF_RANGE,
        reason=Reason.EVENTS_NOT_KEPT,
        message=str(error),
        metadata={} if first is None else {"first_kept_sequence": str(first)},
    )


def _unavailable(error: errors.Unavailable) -> RpcFailure:
    return RpcFailure(
        code=grpc.StatusCode.UNAVAILABLE,
        reason=error.reason,
        message=str(error),
        retry_after=error.retry_after,
    )


def _plain(code: grpc.StatusCode, reason: Reason, message: str | None = None, retry: float | None = None) -> Row:
    """Returns a row for errors that carry nothing but a message; `message` replaces the error's own."""

    def row(error: errors.ImageGenError) -> RpcFailure:
        return RpcFailure(code=code, reason=reason, message=message or str(error), retry_after=retry)

    return row


_BUG_MESSAGE: Final = "internal error; quote the request id when you report it"
_BUG: Final = _plain(grpc.StatusCode.INTERNAL, Reason.INTERNAL, _BUG_MESSAGE)
_NOT_STARTED: Final = _plain(
    grpc.StatusCode.UNAVAILABLE, Reason.NOT_STARTED, "the server could not start", errors.RETRY_AFTER
)

TABLE: Final[Mapping[type[errors.ImageGenError], Row]] = {
    errors.ImageGenError: _BUG,
    errors.InvalidRequest: _invalid_request,
    errors.NotFound: _not_found,
    errors.RefinerUnavailable: _refiner_unavailable,
    errors.AlreadyExists: _already_exists,
    errors.QueueFull: _queue_full,
    errors.QuotaExceeded: _quota_exceeded,
    errors.Unauthenticated: _unauthenticated,
    errors.PermissionDenied: _plain(grpc.StatusCode.PERMISSION_DENIED, Reason.PERMISSION_DENIED),
    errors.DeadlineExceeded: _deadline_exceeded,
    errors.Cancelled: _plain(grpc.StatusCode.CANCELLED, Reason.CANCELLED),
    errors.Unavailable: _unavailable,
    errors.ReplyTooLarge: _plain(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.REPLY_TOO_LARGE),
    errors.EventsNotKept: _events_not_kept,
    errors.StageError: _plain(grpc.StatusCode.INTERNAL, Reason.STAGE_FAILED),
    errors.OutOfDeviceMemory: _plain(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.GPU_OUT_OF_MEMORY),
    errors.NonFinite: _plain(grpc.StatusCode.INTERNAL, Reason.NUMERIC),
    errors.DeviceLost: _plain(grpc.StatusCode.UNAVAILABLE, Reason.DEVICE_LOST, retry=errors.RETRY_AFTER),
    errors.StartupError: _NOT_STARTED,
    errors.DoesNotFit: _NOT_STARTED,
    errors.WeightsUnavailable: _NOT_STARTED,
}
"""A row for every domain error; start-up errors may name paths, so their messages stay here."""


class RpcError(Exception):
    """A failure that only the edge knows (a method that is not served); carries its status ready-made."""

    def __init__(self, failure: RpcFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def is_bug(error: BaseException) -> bool:
    """Returns whether an error is none that the server raises on purpose."""
    return not isinstance(error, RpcError) and _row(error) is _BUG


def failure_of(error: BaseException) -> RpcFailure:
    """Returns what a call that raised `error` ends with; a subclass without a row has its parent's."""
    return error.failure if isinstance(error, RpcError) else _row(error)(error)


def _row(error: BaseException) -> Row:
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), _BUG)


def cut(text: str) -> str:
    """Returns a text within `MAX_MESSAGE` bytes."""
    encoded = text.encode("utf-8", errors="replace")
    if len(encoded) <= MAX_MESSAGE:
        return text
    return encoded[: MAX_MESSAGE - 3].decode("utf-8", errors="ignore") + "..."


def _resource(kind: str, name: str, description: str) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(
        resource_type=f"{DOMAIN}.{kind}", resource_name=cut(name), description=cut(description)
    )
