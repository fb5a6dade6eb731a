"""Reads the `grpc-status-details-bin` trailer (a serialized google.rpc.Status). Pure.

Details that are unknown or malformed are skipped: the status code and its message always reach the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError

from imagegen._wire import message_class

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Metadata key of the trailer, as gRPC fixes it."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request."""

    field: str
    """Path of the field: `refiner.strength`. For a failed precondition, its subject."""
    description: str
    """What is allowed, and what was sent."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ErrorDetails:
    """What the server says about an error, beyond its code and message."""

    reason: str = ""
    """Why, in upper case: QUEUE_FULL, GPU_OUT_OF_MEMORY … Empty if the error is not the service's own."""
    domain: str = ""
    """Who says so; imagegen.v1 for the service."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Facts that belong to the reason, as text."""
    violations: tuple[Violation, ...] = ()
    """Everything that is wrong with the request."""
    retry_after: float | None = None
    """Seconds after which a new attempt makes sense; None if the server does not say."""
    resource_type: str = ""
    """Kind of the resource that is missing or in the way: imagegen.v1.model, .scheduler or .generation."""
    resource_name: str = ""
    """Name of that resource."""
    request_id: str = ""
    """The generation, as the server names it."""


NO_DETAILS: Final = ErrorDetails()
"""An error that did not come from the service, or without details."""


def _error_info(message: Any) -> dict[str, Any]:
    metadata = {entry.key: entry.value for entry in message.metadata}
    return {"reason": message.reason, "domain": message.domain, "metadata": metadata}


def _bad_request(message: Any) -> dict[str, Any]:
    found = tuple(Violation(field=v.field, description=v.description) for v in message.field_violations)
    return {"violations": found}


def _precondition_failure(message: Any) -> dict[str, Any]:
    found = tuple(Violation(field=v.subject or v.type, description=v.description) for v in message.violations)
    return {"violations": found}


def _retry_info(message: Any) -> dict[str, Any]:
    delay = message.retry_delay
    return {"retry_after": max(0.0, delay.seconds + delay.nanos / 1e9)}


def _resource_info(message: Any) -> dict[str, Any]:
    return {"resource_type": message.resource_type, "resource_name": message.resource_name}


def _request_info(message: Any) -> dict[str, Any]:
    return {"request_id": message.request_id}


_READERS: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "ErrorInfo": _error_info,
    "BadRequest": _bad_request,
    "PreconditionFailure": _precondition_failure,
    "RetryInfo": _retry_info,
    "ResourceInfo": _resource_info,
    "RequestInfo": _request_info,
}


def decode_details(trailer: bytes) -> ErrorDetails:
    """Returns what a `grpc-status-details-bin` trailer says; never raises on what a server may send."""
    try:
        status = message_class("Status").FromString(trailer)
    except DecodeError:
        return NO_DETAILS
    found: dict[str, Any] = {}
    for detail in status.details:
        package, _, name = detail.type_url.rpartition("/")[2].rpartition(".")
        reader = _READERS.get(name) if package == "google.rpc" else None
        if reader is None:
            continue
        try:
            found.update(reader(message_class(name).FromString(detail.value)))
        except DecodeError:
            continue  # the other details may still be readable
    return ErrorDetails(**found)
