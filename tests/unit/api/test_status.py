"""The status table: complete, and each row as the contract has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from imagegen_server import errors
from imagegen_server.api import ending, status
from imagegen_server.core import Stage

INTERNALS = "/srv/secret/path.py"


def tree(kind: type[errors.ImageGenError]) -> Iterator[type[errors.ImageGenError]]:
    """Yields an error class and all that derive from it."""
    yield kind
    for derived in kind.__subclasses__():
        if derived.__module__ == errors.__name__:
            yield from tree(derived)


EXAMPLES: dict[type[errors.ImageGenError], tuple[Exception, grpc.StatusCode, str, set[str]]] = {
    errors.ImageGenError: (errors.ImageGenError(INTERNALS), grpc.StatusCode.INTERNAL, "INTERNAL", set()),
    errors.InvalidRequest: (
        errors.InvalidRequest((errors.Violation(field="prompt", description="is required"),)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        {"BadRequest"},
    ),
    errors.NotFound: (
        errors.NotFound("model", "mini", "no such model"),
        grpc.StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND",
        {"ResourceInfo"},
    ),
    errors.RefinerUnavailable: (
        errors.RefinerUnavailable("the refiner is not loaded"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "REFINER_NOT_LOADED",
        {"PreconditionFailure"},
    ),
    errors.QuotaExceeded: (
        errors.QuotaExceeded(errors.QuotaReason.TENANT_STEP_RATE, "used up", 2.0),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TENANT_STEP_RATE",
        {"RetryInfo"},
    ),
    errors.Unauthenticated: (
        errors.Unauthenticated(errors.CredentialsReason.EXPIRED, "it has expired"),
        grpc.StatusCode.UNAUTHENTICATED,
        "CREDENTIALS_EXPIRED",
        set(),
    ),
    errors.PermissionDenied: (
        errors.PermissionDenied("needs a role"),
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
        set(),
    ),
    errors.AlreadyExists: (
        errors.AlreadyExists("a-1", "the id is in use"),
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_IN_USE",
        {"ResourceInfo"},
    ),
    errors.QueueFull: (errors.QueueFull(8, 1.25), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", {"RetryInfo"}),
    errors.DeadlineExceeded: (
        errors.DeadlineExceeded("too late", estimate=9.0, remaining=2.0),
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_CANNOT_BE_MET",
        set(),
    ),
    errors.ReplyTooLarge: (
        errors.ReplyTooLarge("3 images of 9 GB"),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "REPLY_TOO_LARGE",
        set(),
    ),
    errors.EventsNotKept: (
        errors.EventsNotKept("gone", first_kept=7),
        grpc.StatusCode.OUT_OF_RANGE,
        "EVENTS_NOT_KEPT",
        set(),
    ),
    errors.Cancelled: (errors.Cancelled("stopped"), grpc.StatusCode.CANCELLED, "CANCELLED", set()),
    errors.Unavailable: (
        errors.Unavailable(errors.UnavailableReason.DRAINING, "shutting down"),
        grpc.StatusCode.UNAVAILABLE,
        "DRAINING",
        {"RetryInfo"},
    ),
    errors.StageError: (errors.StageError("base failed"), grpc.StatusCode.INTERNAL, "STAGE_FAILED", set()),
    errors.OutOfDeviceMemory: (
        errors.OutOfDeviceMemory("out of memory"),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "GPU_OUT_OF_MEMORY",
        set(),
    ),
    errors.NonFinite: (errors.NonFinite("NaN in the base"), grpc.StatusCode.INTERNAL, "NUMERIC", set()),
    errors.DeviceLost: (errors.DeviceLost("gone"), grpc.StatusCode.UNAVAILABLE, "DEVICE_LOST", {"RetryInfo"}),
    errors.StartupError: (errors.StartupError(INTERNALS), grpc.StatusCode.UNAVAILABLE, "NOT_STARTED", {"RetryInfo"}),
    errors.DoesNotFit: (errors.DoesNotFit(INTERNALS), grpc.StatusCode.UNAVAILABLE, "NOT_STARTED", {"RetryInfo"}),
    errors.WeightsUnavailable: (
        errors.WeightsUnavailable(INTERNALS),
        grpc.StatusCode.UNAVAILABLE,
        "NOT_STARTED",
        {"RetryInfo"},
    ),
}


def unpacked(failure: status.RpcFailure) -> tuple[status_pb2.Status, dict[str, Any]]:
    """Returns the google.rpc.Status of a failure and its details by name."""
    result = ending.rpc_status(failure, "id-1")
    details = {}
    for packed in result.details:
        message = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        packed.Unpack(message)
        details[type(message).__name__] = message
    return result, details


def test_every_domain_error_has_a_row_and_an_example() -> None:
    """Nothing in the error tree can reach a caller unmapped."""
    everything = set(tree(errors.ImageGenError))
    assert set(status.TABLE) == everything
    assert set(EXAMPLES) == everything


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_row(kind: type[errors.ImageGenError]) -> None:
    """Each error has its code, its reason, exactly its details, and the request id."""
    error, code, reason, extra = EXAMPLES[kind]
    failure = status.failure_of(error)
    result, details = unpacked(failure)
    assert failure.code is code
    assert result.code == code.value[0]
    assert set(details) == {"ErrorInfo", "RequestInfo"} | extra
    assert details["ErrorInfo"].domain == "imagegen.v1"
    assert details["ErrorInfo"].reason == reason
    assert details["RequestInfo"].request_id == "id-1"


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_pushback_accompanies_retry_info(kind: type[errors.ImageGenError]) -> None:
    """The trailer that stock clients obey says the same milliseconds as RetryInfo, or forbids what they would retry."""
    failure = status.failure_of(EXAMPLES[kind][0])
    _, details = unpacked(failure)
    trailers = dict(ending.trailers(failure, "id-1"))
    if "RetryInfo" in details:
        milliseconds = details["RetryInfo"].retry_delay.ToMilliseconds()
        assert trailers["grpc-retry-pushback-ms"] == str(milliseconds)
        assert 0 <= int(trailers["retry-after"]) * 1000 - milliseconds < 1000
    else:
        retried = failure.code in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
        assert trailers.get("grpc-retry-pushback-ms") == ("-1" if retried else None)
        assert "retry-after" not in trailers
    assert trailers["x-request-id"] == "id-1"
    assert trailers["x-error-reason"] == failure.reason


@pytest.mark.parametrize(
    ("wait", "time_left", "pushback"),
    [(5.0, 6.0, "5000"), (5.0, 4.0, "-1"), (70.0, 80.0, "70000"), (50.0, None, "50000"), (70.0, None, "-1")],
)
def test_nobody_is_held_in_silence_for_an_attempt_that_comes_too_late(
    wait: float, time_left: float | None, pushback: str
) -> None:
    """A stock client would wait for longer than its call has, or for a minute; when to retry is told all the same."""
    trailers = dict(ending.trailers(status.failure_of(errors.QueueFull(8, wait)), "id-1", time_left))
    assert (trailers["grpc-retry-pushback-ms"], trailers["retry-after"]) == (pushback, f"{wait:.0f}")


def test_who_goes_elsewhere_is_not_sent_here_again() -> None:
    """gRPC's own retries are forbidden for the reasons that the call names; RetryInfo stays."""
    draining = status.failure_of(EXAMPLES[errors.Unavailable][0])
    named = [(ending.ELSEWHERE_KEY, "DRAINING,LOADING"), ("other", "x")]
    assert ending.goes_elsewhere(draining, named)
    for metadata in ([], None, [("other", "DRAINING")], [(ending.ELSEWHERE_KEY, "LOADING")]):
        assert not ending.goes_elsewhere(draining, metadata)
    trailers = dict(ending.trailers(draining, "id-1", elsewhere=True))
    assert (trailers["grpc-retry-pushback-ms"], trailers["retry-after"]) == ("-1", "5")


@pytest.mark.parametrize(
    "error",
    [ValueError(INTERNALS), errors.ImageGenError(INTERNALS), errors.StartupError(INTERNALS), KeyError(INTERNALS)],
)
def test_internals_stay_inside(error: Exception) -> None:
    """The message of a bug or of a failed start never leaves the process."""
    trailers = ending.trailers(status.failure_of(error), "id-1")
    assert INTERNALS not in repr(trailers)
    assert INTERNALS not in ending.message_of(status.failure_of(error))


def test_only_bugs_are_bugs() -> None:
    """A domain error is no bug; anything else is, and so is the bare base class."""
    assert status.is_bug(RuntimeError("x"))
    assert status.is_bug(errors.ImageGenError("x"))
    assert not status.is_bug(errors.NonFinite("x"))
    assert not status.is_bug(status.RpcError(status.failure_of(errors.Cancelled("x"))))


def test_subclass_without_row_has_its_parents() -> None:
    """A more special error raised by a runner is still what its parent is."""

    class BrokenCable(errors.DeviceLost):
        """A device is lost in a new way."""

    assert status.failure_of(BrokenCable("x")).reason == "DEVICE_LOST"
    assert not status.is_bug(BrokenCable("x"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("model", "MODEL_NOT_FOUND"), ("scheduler", "SCHEDULER_NOT_FOUND"), ("generation", "GENERATION_NOT_FOUND")],
)
def test_not_found_names_the_resource(kind: str, reason: str) -> None:
    """ResourceInfo says what was not found."""
    _, details = unpacked(status.failure_of(errors.NotFound(kind, "it", "is not there")))
    assert details["ErrorInfo"].reason == reason
    assert details["ResourceInfo"].resource_type == f"imagegen.v1.{kind}"
    assert details["ResourceInfo"].resource_name == "it"


@pytest.mark.parametrize("reason", errors.CredentialsReason)
def test_every_fault_of_credentials_has_a_reason(reason: errors.CredentialsReason) -> None:
    """Programs can tell credentials that are missing, wrong or expired apart."""
    assert status.failure_of(errors.Unauthenticated(reason, "no")).reason == f"CREDENTIALS_{reason.name}"


def test_deadline_that_passed_says_how_far_it_came() -> None:
    """The stage and the step are in ErrorInfo; an estimate is not invented."""
    error = errors.DeadlineExceeded("too late", stage=Stage.REFINER, step=7)
    _, details = unpacked(status.failure_of(error))
    assert details["ErrorInfo"].reason == "DEADLINE_PASSED"
    assert dict(details["ErrorInfo"].metadata) == {"stage": "refiner", "step": "7"}


def test_refused_deadline_carries_the_estimate() -> None:
    """The caller learns how long it would take and how much time it gave."""
    _, details = unpacked(status.failure_of(errors.DeadlineExceeded("no", estimate=9.5, remaining=2.0)))
    assert dict(details["ErrorInfo"].metadata) == {"estimate_seconds": "9.500", "remaining_seconds": "2.000"}


def test_trailers_fit_stock_clients() -> None:
    """However much is wrong, and however long the names, all trailers stay below gRPC's default of 8 KiB."""
    violations = tuple(errors.Violation(field=f"field_{n}" * 9, description="\u4e16" * 500) for n in range(100))
    for error in (
        errors.InvalidRequest(violations),
        errors.NotFound("model", "\u4e16" * 100_000, "\u4e16" * 100_000),
        errors.AlreadyExists("x" * 100_000, "y" * 100_000),
        errors.QueueFull(8, float("inf")),
    ):
        failure = status.failure_of(error)
        trailers = ending.trailers(failure, "i" * 128)
        size = sum(len(key) + len(value) + 32 for key, value in trailers)
        percent_encoded = 3 * len(ending.message_of(failure).encode())
        assert size + percent_encoded < 8192
