"""How the failure of a call is written: a status, its details and its trailers.

Every status carries `google.rpc.ErrorInfo` (domain `imagegen.v1`, a reason from `status.Reason`) and
`google.rpc.RequestInfo`; the request id is also in the trailer `x-request-id`.

HTTP/2 clients refuse trailers above 8 KiB, so messages are cut at `status.MAX_MESSAGE` bytes and details that
would not fit lose their last violations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from imagegen_server.api.handlers import AnyContext
from imagegen_server.api.status import DOMAIN, RpcFailure, cut, failure_of

REQUEST_ID_KEY: Final = "x-request-id"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
NO_RETRY: Final = "-1"
"""The pushback that forbids another attempt (gRFC A6)."""
RETRIED_CODES: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})
"""Those that clients try again by themselves, with a backoff of their own unless a pushback says otherwise."""
DETAILS_KEY: Final = "grpc-status-details-bin"
REASON_KEY: Final = "x-error-reason"
"""`ErrorInfo.reason` in plain text, for proxies: they retry elsewhere what was never begun, and log it."""
ELSEWHERE_KEY: Final = "x-goes-elsewhere"
"""Metadata of a call: reasons, with commas between them, for which its client makes it again on another server by
itself. gRPC's retries, which would go to this one again, are forbidden for them."""
RETRY_AFTER_KEY: Final = "retry-after"
"""Whole seconds, rounded up: when to retry as HTTP has it, for callers behind a transcoding proxy."""
MAX_DETAILS: Final = 6144
"""Bytes of serialized details. gRPC's default limit for all metadata of a message is 8 KiB."""
LONGEST_RETRY: Final = 3600.0
"""Seconds; a longer wait is not worth promising."""
LONGEST_PUSHBACK: Final = 60.0
"""Seconds that a call without a deadline is held by its client's retries, in silence, before it is told why."""


async def abort(context: AnyContext, error: BaseException, request_id: str) -> NoReturn:
    """Ends a call with the status of an error. Raises grpc.aio's AbortError, which must be let through."""
    failure = failure_of(error)
    elsewhere = goes_elsewhere(failure, context.invocation_metadata())
    ends = trailers(failure, request_id, context.time_remaining(), elsewhere=elsewhere)
    await context.abort(failure.code, message_of(failure), ends)


def goes_elsewhere(failure: RpcFailure, metadata: Iterable[Any] | None) -> bool:
    """Returns whether the client of a call with this metadata goes to another server after such a failure."""
    named = (value.split(",") for key, value in metadata or () if key == ELSEWHERE_KEY and isinstance(value, str))
    return any(failure.reason in reasons for reasons in named)


def rpc_status(failure: RpcFailure, request_id: str) -> status_pb2.Status:
    """Returns the `google.rpc.Status` of a failure, within `MAX_DETAILS` bytes."""
    info = error_details_pb2.ErrorInfo(domain=DOMAIN, reason=failure.reason, metadata=dict(failure.metadata))
    details: list[Message] = [info, error_details_pb2.RequestInfo(request_id=request_id), *failure.details]
    if failure.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(_milliseconds(failure.retry_after) * 1_000_000)
        details.append(retry)
    status = _packed(failure, details)
    violations = next((d for d in details if isinstance(d, error_details_pb2.BadRequest)), None)
    while violations is not None and violations.field_violations and status.ByteSize() > MAX_DETAILS:
        del violations.field_violations[-1]
        status = _packed(failure, details)
    return status


def trailers(
    failure: RpcFailure, request_id: str, time_left: float | None = None, *, elsewhere: bool = False
) -> tuple[tuple[str, str | bytes], ...]:
    """Returns the trailing metadata of a failure.

    `time_left` is in seconds until the deadline; None without one. `elsewhere`: the client goes to another server.
    """
    status = rpc_status(failure, request_id)
    result: list[tuple[str, str | bytes]] = [
        (REQUEST_ID_KEY, request_id),
        (REASON_KEY, failure.reason),
        (DETAILS_KEY, status.SerializeToString()),
    ]
    if failure.retry_after is not None:
        milliseconds = _milliseconds(failure.retry_after)
        waits = not elsewhere and failure.retry_after < (LONGEST_PUSHBACK if time_left is None else time_left)
        result.append((PUSHBACK_KEY, str(milliseconds) if waits else NO_RETRY))
        result.append((RETRY_AFTER_KEY, str(math.ceil(milliseconds / 1000))))
    elif failure.code in RETRIED_CODES:
        result.append((PUSHBACK_KEY, NO_RETRY))
    return tuple(result)


def message_of(failure: RpcFailure) -> str:
    """Returns the status message of a failure, cut to what fits."""
    return cut(failure.message)


def _packed(failure: RpcFailure, details: list[Message]) -> status_pb2.Status:
    status = status_pb2.Status(code=failure.code.value[0], message=message_of(failure))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(min(seconds, LONGEST_RETRY) * 1000))
