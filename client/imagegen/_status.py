"""Turns a failed call into the client's own error. One table, tested over all codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc

from imagegen import errors
from imagegen._details import NO_DETAILS, STATUS_DETAILS_KEY, ErrorDetails, decode_details

REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata key under which the server echoes the request id."""

CODES: Final[Mapping[grpc.StatusCode, type[errors.ImageGenError]]] = {
    grpc.StatusCode.CANCELLED: errors.GenerationCancelledError,
    grpc.StatusCode.UNKNOWN: errors.InternalError,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PreconditionError,
    grpc.StatusCode.ABORTED: errors.ServiceUnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotImplementedByServerError,
    grpc.StatusCode.INTERNAL: errors.InternalError,
    grpc.StatusCode.UNAVAILABLE: errors.ServiceUnavailableError,
    grpc.StatusCode.DATA_LOSS: errors.IntegrityError,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequestError,
}
"""The class of every failure code. `OK` has none: gRPC raises no error for it."""

REASONS: Final[Mapping[tuple[grpc.StatusCode, str], type[errors.ImageGenError]]] = {
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"): errors.QueueFullError,
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "GPU_OUT_OF_MEMORY"): errors.OutOfMemoryError,
    (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_NOT_KEPT"): errors.EventsNotKeptError,
    # The service gives every error a reason; without one, the transport speaks. A proxy whose server is gone can only
    # reset a stream that has begun, which is INTERNAL.
    (grpc.StatusCode.UNAVAILABLE, ""): errors.UnreachableError,
    (grpc.StatusCode.INTERNAL, ""): errors.ConnectionBrokenError,
}
"""Codes that a reason (`ErrorInfo.reason`) makes more precise."""


def error_class(code: grpc.StatusCode, reason: str) -> type[errors.ImageGenError]:
    """Returns the class of a status; `InternalError` for a code that means nothing here."""
    return REASONS.get((code, reason)) or CODES.get(code, errors.InternalError)


def make_error(
    code: grpc.StatusCode, message: str, metadata: Iterable[Any], request_id: str = ""
) -> errors.ImageGenError:
    """Returns the error of a status with its trailing metadata: pairs of a key and a str or bytes value."""
    details, echoed = NO_DETAILS, ""
    for key, value in metadata:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            details = decode_details(value)
        elif key == REQUEST_ID_KEY:
            echoed = str(value)
    return error_class(code, details.reason)(
        message or code.name,
        code=code,
        request_id=request_id or details.request_id or echoed,
        details=details,
    )


def error_from_rpc(error: grpc.RpcError, request_id: str) -> errors.ImageGenError:
    """Returns the client's error for what a call raised, in either of grpc's two APIs."""
    return make_error(error.code(), error.details() or "", error.trailing_metadata() or (), request_id)


def had_begun(error: errors.ImageGenError) -> bool | None:
    """Returns whether the server had taken the generation of a call that failed: its headers name the generation.

    None if that cannot be told: grpc.aio drops headers that came, if its loop learns of the call's end before it.
    """
    cause = error.__cause__
    told = getattr(cause, "initial_metadata", tuple)  # of grpc's error; an interceptor's may have none
    headers: tuple[tuple[str, str | bytes], ...] = tuple(told() or ())
    if not headers and isinstance(cause, grpc.aio.AioRpcError):
        return None
    return any(key == REQUEST_ID_KEY for key, _ in headers)


def invalid_request(violations: tuple[errors.Violation, ...], request_id: str) -> errors.InvalidRequestError:
    """Returns the error of a request that cannot even be written down, in the server's own form."""
    return errors.InvalidRequestError(
        "; ".join(f"{violation.field}: {violation.description}" for violation in violations),
        code=grpc.StatusCode.INVALID_ARGUMENT,
        request_id=request_id,
        details=ErrorDetails(violations=violations),
    )
