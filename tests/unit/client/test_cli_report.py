"""Outcomes as text, JSON and exit codes."""

from __future__ import annotations

import inspect
import json

import grpc
import pytest

from imagegen import errors
from imagegen._cli_report import EXIT_CODES, ExitCode, exit_code, failure_json, failure_text
from imagegen._details import ErrorDetails, Violation

EXPECTED = {
    "ImageGenError": 1,
    "InvalidRequestError": 2,
    "EventsNotKeptError": 2,
    "NotFoundError": 2,
    "AlreadyExistsError": 2,
    "PreconditionError": 2,
    "AuthenticationError": 1,
    "AccessDeniedError": 1,
    "ResourceExhaustedError": 4,
    "QueueFullError": 4,
    "OutOfMemoryError": 1,
    "ServiceUnavailableError": 4,
    "UnreachableError": 3,
    "DeadlineExceededError": 5,
    "GenerationCancelledError": 6,
    "NotImplementedByServerError": 1,
    "InternalError": 1,
    "ResponseError": 1,
    "IntegrityError": 1,
    "ProtocolError": 1,
}


def test_every_error_has_an_exit_code() -> None:
    """The table over the whole tree."""
    classes = [
        value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, errors.ImageGenError)
    ]
    assert {kind.__name__: int(exit_code(kind("text"))) for kind in classes} == EXPECTED


def test_every_exit_code_of_an_error_is_used() -> None:
    """No documented code is unreachable."""
    assert set(EXIT_CODES.values()) | {ExitCode.OK, ExitCode.INTERRUPTED} == set(ExitCode)


def test_json_carries_all_that_is_known() -> None:
    """A program finds the class, the code, the reason and the violations of a failure."""
    details = ErrorDetails(
        reason="QUEUE_FULL",
        metadata={"capacity": "16"},
        violations=(Violation(field="f", description="d"),),
        retry_after=2.0,
    )
    error = errors.QueueFullError("full", code=grpc.StatusCode.RESOURCE_EXHAUSTED, request_id="id", details=details)
    assert json.loads(json.dumps(failure_json(error, ExitCode.REFUSED))) == {
        "error": {
            "type": "QueueFullError",
            "message": "full",
            "code": "RESOURCE_EXHAUSTED",
            "request_id": "id",
            "reason": "QUEUE_FULL",
            "metadata": {"capacity": "16"},
            "violations": [{"field": "f", "description": "d"}],
            "retry_after": 2.0,
        },
        "exit_code": 4,
    }


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_json_of_other_failures_has_type_and_message(error: BaseException) -> None:
    """Failures outside the tree have the two facts that they have, and the message is never empty."""
    facts = failure_json(error, ExitCode.FAILED)["error"]
    assert set(facts) == {"type", "message"}
    assert facts["message"]


def test_a_silent_server_is_explained() -> None:
    """The text names the address and says how to start a server or choose another."""
    text = failure_text(errors.UnreachableError("refused"), "there:1", connected=False)
    assert "no server answers at there:1 (refused)" in text
    assert "imagegen-server" in text
    assert "IMAGEGEN_SERVER" in text


def test_a_lost_connection_is_not_called_a_silent_server() -> None:
    """Once the server has answered, advice on starting one would mislead."""
    text = failure_text(errors.UnreachableError("reset"), "there:1", connected=True)
    assert text == "the connection to there:1 was lost (reset)"


def test_violations_are_listed_one_a_line() -> None:
    """Several violations are a list; a single one is the message."""
    violations = (Violation(field="width", description="too wide"), Violation(field="seed", description="negative"))
    many = errors.InvalidRequestError("2 violations", details=ErrorDetails(violations=violations))
    assert failure_text(many, "", connected=False).splitlines() == [
        "the request is invalid:",
        "  width: too wide",
        "  seed: negative",
    ]
    one = errors.InvalidRequestError("width: too wide", details=ErrorDetails(violations=violations[:1]))
    assert failure_text(one, "", connected=False) == "width: too wide"


def test_when_to_return_and_what_to_quote_are_said() -> None:
    """A refusal for now says when to try again; every failure of a generation names it."""
    error = errors.QueueFullError("full", request_id="id", details=ErrorDetails(retry_after=2.5))
    assert failure_text(error, "", connected=True).splitlines() == ["full", "Try again in 2.5 s.", "Request id: id"]
