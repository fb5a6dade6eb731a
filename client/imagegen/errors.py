"""Everything that the client raises on purpose. No grpc.RpcError escapes.

    ImageGenError
    ├── InvalidRequestError           INVALID_ARGUMENT, OUT_OF_RANGE: every violation at once
    │   └── EventsNotKeptError        reason EVENTS_NOT_KEPT: events to watch are gone
    ├── NotFoundError                 NOT_FOUND: unknown model, scheduler or request id
    ├── AlreadyExistsError            ALREADY_EXISTS: the request id is in use, or had another body
    ├── PreconditionError             FAILED_PRECONDITION: the refiner is required but not loaded
    ├── AuthenticationError           UNAUTHENTICATED: no or bad credentials
    ├── AccessDeniedError             PERMISSION_DENIED: not allowed
    ├── ResourceExhaustedError        RESOURCE_EXHAUSTED: a quota, or a limit of the transport
    │   ├── QueueFullError            reason QUEUE_FULL: retry later
    │   └── OutOfMemoryError          reason GPU_OUT_OF_MEMORY: after every fallback
    ├── ServiceUnavailableError       UNAVAILABLE, ABORTED: loading, draining, device lost; retry later
    │   └── UnreachableError          UNAVAILABLE from the transport: no server answers, or the connection was lost
    │       ├── ConnectionBrokenError INTERNAL from the transport: as a proxy calls a break behind it
    │       └── GenerationLostError   and the server that answers now does not know the generation
    ├── DeadlineExceededError         DEADLINE_EXCEEDED: cannot be met, or has passed
    ├── GenerationCancelledError      CANCELLED
    ├── NotImplementedByServerError   UNIMPLEMENTED: the server does not serve this call
    ├── InternalError                 INTERNAL, UNKNOWN and codes that mean nothing here
    └── ResponseError                 the answer cannot be used
        ├── IntegrityError            DATA_LOSS, or bytes that do not match their size, order or hash
        └── ProtocolError             events that break the contract, or a stream that ended too early

Misuse of the client itself raises the usual TypeError, ValueError and RuntimeError.
"""

from __future__ import annotations

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "AuthenticationError",
    "ConnectionBrokenError",
    "DeadlineExceededError",
    "ErrorDetails",
    "EventsNotKeptError",
    "GenerationCancelledError",
    "GenerationLostError",
    "ImageGenError",
    "IntegrityError",
    "InternalError",
    "InvalidRequestError",
    "NotFoundError",
    "NotImplementedByServerError",
    "OutOfMemoryError",
    "PreconditionError",
    "ProtocolError",
    "QueueFullError",
    "ResourceExhaustedError",
    "ResponseError",
    "ServiceUnavailableError",
    "UnreachableError",
    "Violation",
]

import grpc

from imagegen._details import NO_DETAILS, ErrorDetails, Violation


class ImageGenError(Exception):
    """Base of everything that the client raises on purpose."""

    code: grpc.StatusCode
    """The gRPC status of the call, or the one that describes the client's own finding."""
    message: str
    """For people: what went wrong."""
    request_id: str
    """The generation; empty for calls that have none."""
    details: ErrorDetails
    """What the server said beyond code and message."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        request_id: str = "",
        details: ErrorDetails = NO_DETAILS,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.request_id = request_id or details.request_id
        self.details = details

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a new attempt makes sense; None if the server does not say."""
        return self.details.retry_after


class InvalidRequestError(ImageGenError):
    """The request breaks the contract."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Everything that is wrong with the request."""
        return self.details.violations


class EventsNotKeptError(InvalidRequestError):
    """Events that `watch` asks for are not kept, or not any more; `get` still tells how the generation went."""


class NotFoundError(ImageGenError):
    """Something that the request names does not exist: see `details.resource_type` and `resource_name`."""


class AlreadyExistsError(ImageGenError):
    """The request id is in use, or was used with another body."""


class PreconditionError(ImageGenError):
    """The server lacks what the request requires, such as the refiner."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What is missing."""
        return self.details.violations


class AuthenticationError(ImageGenError):
    """No credentials, or bad ones."""


class AccessDeniedError(ImageGenError):
    """The credentials do not allow this."""


class ResourceExhaustedError(ImageGenError):
    """Something has run out: a quota, or a limit of the transport."""


class QueueFullError(ResourceExhaustedError):
    """Too many generations are waiting; `retry_after` says when to come back."""


class OutOfMemoryError(ResourceExhaustedError):
    """The server's device ran out of memory after every fallback that was allowed."""


class ServiceUnavailableError(ImageGenError):
    """The server does not take the request now; another may, or this one after `retry_after`."""


class UnreachableError(ServiceUnavailableError):
    """No server answers at the address, or the connection was lost."""


class GenerationLostError(UnreachableError):
    """The connection was lost, and the server that answers now does not know the generation.

    After a restart its work is lost. Behind a balancer that picks any server, another one may have it.
    """


class DeadlineExceededError(ImageGenError):
    """The deadline cannot be met, or has passed; `details.metadata` has the numbers if the server knew them."""


class GenerationCancelledError(ImageGenError):
    """The generation was stopped: by `cancel`, by another caller or by closing the client."""


class NotImplementedByServerError(ImageGenError):
    """The server does not serve this call."""


class InternalError(ImageGenError):
    """The server failed; quote `request_id` to its operator."""


class ConnectionBrokenError(UnreachableError, InternalError):
    """The transport says INTERNAL, not the service: a proxy lost the connection behind it while an answer came."""


class ResponseError(ImageGenError):
    """The answer cannot be used."""


class IntegrityError(ResponseError):
    """Image bytes do not match their size, order or hash."""


class ProtocolError(ResponseError):
    """The events break the contract, or the stream ended before `completed`."""
