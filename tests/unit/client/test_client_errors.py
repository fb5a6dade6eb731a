"""The exception tree and the table from statuses to it."""

from __future__ import annotations

import inspect
import pickle
import re

import grpc
import pytest

from imagegen import errors
from imagegen._details import ErrorDetails, Violation
from imagegen._status import CODES, REASONS, error_class, invalid_request, make_error
from support.scripted_service import details, error_info

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
]

EXPECTED = {
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


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_code_of_the_service_has_its_class(code: grpc.StatusCode) -> None:
    """A status with a reason that adds nothing becomes exactly the class of its code."""
    error = make_error(code, "text", [("grpc-status-details-bin", details(error_info("ANY"), code=code))], "id-1")
    assert type(error) is EXPECTED[code]
    assert (error.code, error.message, str(error), error.request_id) == (code, "text", "text", "id-1")
    assert error.details.reason == "ANY"


def test_the_table_has_no_gap() -> None:
    """Every failure code that grpc defines is in the table."""
    assert set(CODES) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", errors.QueueFullError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "GPU_OUT_OF_MEMORY", errors.OutOfMemoryError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", errors.ResourceExhaustedError),
        (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_NOT_KEPT", errors.EventsNotKeptError),
        (grpc.StatusCode.UNAVAILABLE, "", errors.UnreachableError),
        (grpc.StatusCode.UNAVAILABLE, "DRAINING", errors.ServiceUnavailableError),
        (grpc.StatusCode.INTERNAL, "", errors.ConnectionBrokenError),
        (grpc.StatusCode.INTERNAL, "QUEUE_FULL", errors.InternalError),
        (grpc.StatusCode.OK, "", errors.InternalError),
    ],
)
def test_a_reason_makes_its_code_more_precise(
    code: grpc.StatusCode, reason: str, expected: type[errors.ImageGenError]
) -> None:
    """Reasons choose among the classes of one code only."""
    assert error_class(code, reason) is expected


@pytest.mark.parametrize(("key", "refined"), REASONS.items())
def test_a_precise_class_is_a_kind_of_its_codes_class(
    key: tuple[grpc.StatusCode, str], refined: type[errors.ImageGenError]
) -> None:
    """Whoever catches the class of a code also catches its refinements."""
    assert issubclass(refined, CODES[key[0]])


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """The module docstring draws every class, each under its parent."""
    drawn: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([ │├└─]*)(\w+Error)\b", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        parents = [parent for parent in parents if parent[0] < depth]
        drawn[name] = parents[-1][1] if parents else "Exception"
        parents.append((depth, name))
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in CLASSES if kind.__base__}


def test_every_class_is_exported_documented_and_reachable() -> None:
    """No class is missing from `__all__`, lacks a docstring, or can never be raised."""
    names = {kind.__name__ for kind in CLASSES}
    assert names == set(errors.__all__) - {"ErrorDetails", "Violation"}
    assert all(kind.__doc__ for kind in CLASSES)
    raised = {*CODES.values(), *REASONS.values(), errors.ProtocolError, errors.GenerationLostError}
    abstract = {errors.ImageGenError, errors.ResponseError}
    assert set(CLASSES) - abstract == raised


def test_no_class_shadows_a_builtin() -> None:
    """`from imagegen.errors import *` leaves the builtins alone."""
    builtins = vars(__import__("builtins"))
    assert [name for name in errors.__all__ if name in builtins] == []


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[errors.ImageGenError]) -> None:
    """What it carries crosses a process boundary."""
    known = ErrorDetails(reason="R", violations=(Violation(field="f", description="d"),), retry_after=1.5)
    copy = pickle.loads(  # noqa: S301 (our own bytes)
        pickle.dumps(kind("text", code=grpc.StatusCode.ABORTED, request_id="id", details=known))
    )
    assert type(copy) is kind
    assert (copy.message, copy.code, copy.request_id, copy.details) == ("text", grpc.StatusCode.ABORTED, "id", known)
    assert copy.retry_after == 1.5


def test_the_request_id_comes_from_wherever_it_is_known() -> None:
    """The caller's own id wins, then the server's detail, then its metadata."""
    from google.rpc import error_details_pb2

    trailer = ("grpc-status-details-bin", details(error_details_pb2.RequestInfo(request_id="detail")))
    echoed = ("x-request-id", "echo")
    code = grpc.StatusCode.INTERNAL
    assert make_error(code, "", [trailer, echoed], "own").request_id == "own"
    assert make_error(code, "", [trailer, echoed]).request_id == "detail"
    assert make_error(code, "", [echoed]).request_id == "echo"
    assert make_error(code, "", []).request_id == ""


def test_a_status_without_message_is_named_by_its_code() -> None:
    """An error never prints as an empty line."""
    assert str(make_error(grpc.StatusCode.INTERNAL, "", [])) == "INTERNAL"


def test_a_local_refusal_looks_like_the_servers() -> None:
    """Values that the wire cannot carry give the same class, code and violations as a refusal."""
    violations = (Violation(field="a", description="x"), Violation(field="b", description="y"))
    error = invalid_request(violations, "id")
    assert error.violations == violations
    assert (error.code, str(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "a: x; b: y")
