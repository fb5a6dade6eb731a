"""Failures as text, JSON and exit codes."""

from __future__ import annotations

import inspect
import json
import shlex

import grpc
import pytest

from imagegen import errors
from imagegen._cli_access import watch_command
from imagegen._cli_failure import EXIT_CODES, Circumstances, ExitCode, exit_code, failure_json, failure_text
from imagegen._cli_parser import build_parser
from imagegen._details import ErrorDetails, Violation

BEFORE = Circumstances(server="there:1")
"""Nobody has answered yet."""
LATER = Circumstances(server="there:1", connected=True)
"""It has."""

EXPECTED = {
    "ImageGenError": 1,
    "InvalidRequestError": 2,
    "EventsNotKeptError": 2,
    "NotFoundError": 2,
    "AlreadyExistsError": 2,
    "PreconditionError": 2,
    "AuthenticationError": 2,
    "AccessDeniedError": 2,
    "ResourceExhaustedError": 4,
    "QueueFullError": 4,
    "OutOfMemoryError": 1,
    "ServiceUnavailableError": 4,
    "UnreachableError": 3,
    "ConnectionBrokenError": 3,
    "GenerationLostError": 3,
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
    assert {kind.__name__: int(exit_code(kind("text"), LATER)) for kind in classes} == EXPECTED


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
    text = failure_text(errors.UnreachableError("refused"), BEFORE)
    assert "no server answers at there:1 (refused)" in text
    assert "make serve" in text
    assert "IMAGEGEN_SERVER" in text


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            "Tls handshake failed: SSL_ERROR_SSL: WRONG_VERSION_NUMBER",
            "It speaks plain text, as a server without a certificate does (the default): leave --ca away.",
        ),
        ("Tls handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED", "Check --ca FILE"),
        ("Hostname Verification Check failed.", "Check --ca FILE"),
        ("Socket closed", "If it has no certificate (the default), leave --ca away; else\ncheck --ca FILE"),
        (
            "ipv6:[::1]:1: Connection refused",
            "If it has no certificate (the default), leave --ca away; else\ncheck --ca FILE",
        ),
    ],
)
def test_a_tls_connection_that_fails_is_called_so(said: str, advice: str) -> None:
    """With what gRPC found out; one of several addresses that refuses says nothing of the one that does not."""
    where = Circumstances(server="there:1", listening=True, tls="--ca")
    first, rest = failure_text(errors.UnreachableError(said), where).split("\n", 1)
    assert first == "no TLS connection to there:1" + ("" if "refused" in said else f" ({said})")
    assert rest.startswith(advice)
    refused = Circumstances(server="there:1", tls="--ca")
    assert "no server answers" in failure_text(errors.UnreachableError("refused"), refused)


def test_somebody_who_listens_is_not_called_missing() -> None:
    """In plain text as well."""
    where = Circumstances(server="there:1", listening=True)
    text = failure_text(errors.UnreachableError("ipv6:[::1]:1: Connection refused"), where)
    assert text.startswith("somebody answers at there:1, but no connection came about\nDoes the server speak TLS?")


def test_a_lost_connection_is_not_called_a_silent_server() -> None:
    """Once the server has answered, advice on starting one would mislead."""
    text = failure_text(errors.UnreachableError("reset"), LATER)
    assert text == "the connection to there:1 was lost (reset)"


def test_work_that_is_lost_is_not_said_to_go_on() -> None:
    """The connection was lost too, but there is nothing to take up again."""
    lasting = Circumstances(server="there:1", connected=True, again="imagegen watch mine")
    text = failure_text(errors.GenerationLostError("its work is lost", request_id="mine"), lasting)
    assert text == "its work is lost\nRequest id: mine"


def test_violations_are_listed_one_a_line() -> None:
    """Several violations are a list; a single one is the message."""
    violations = (Violation(field="width", description="too wide"), Violation(field="seed", description="negative"))
    many = errors.InvalidRequestError("2 violations", details=ErrorDetails(violations=violations))
    assert failure_text(many, BEFORE).splitlines() == [
        "the request is invalid:",
        "  width: too wide",
        "  seed: negative",
    ]
    one = errors.InvalidRequestError("width: too wide", details=ErrorDetails(violations=violations[:1]))
    assert failure_text(one, BEFORE) == "width: too wide"


def test_when_to_return_and_what_to_quote_are_said() -> None:
    """A refusal for now says when to try again; every failure of a generation names it."""
    error = errors.QueueFullError("full", request_id="id", details=ErrorDetails(retry_after=2.5))
    assert failure_text(error, LATER).splitlines() == ["full", "Try again in 2.5 s.", "Request id: id"]


def test_a_host_that_says_nothing_is_no_deadline_of_a_server() -> None:
    """The time that the command waited, and the exit code of nobody; a server that answered has its own words."""
    silence = errors.DeadlineExceededError("Deadline Exceeded", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    assert failure_text(silence, BEFORE) == "no answer from there:1 within 10 s"
    assert exit_code(silence, BEFORE) is ExitCode.UNREACHABLE
    assert failure_text(silence, LATER) == "Deadline Exceeded"
    assert exit_code(silence, LATER) is ExitCode.DEADLINE
    told = errors.DeadlineExceededError("too late", details=ErrorDetails(reason="DEADLINE_CANNOT_BE_MET"))
    assert failure_text(told, BEFORE) == "too late"
    assert exit_code(told, BEFORE) is ExitCode.DEADLINE


@pytest.mark.parametrize(
    "error", [errors.UnreachableError("reset"), errors.DeadlineExceededError("late", request_id="mine")]
)
def test_how_to_get_the_images_of_what_goes_on_is_said(error: errors.ImageGenError) -> None:
    """Where the command is over and the generation is not; not where it never began."""
    lasting = Circumstances(server="there:1", connected=True, again="imagegen watch mine")
    assert failure_text(error, lasting).splitlines()[-1] == "The generation goes on: imagegen watch mine"
    assert "goes on" not in failure_text(error, LATER)
    ended = errors.DeadlineExceededError("late", details=ErrorDetails(reason="DEADLINE_EXCEEDED"))
    for over in (errors.QueueFullError("full"), ended):
        assert "goes on" not in failure_text(over, lasting)


def test_the_command_that_takes_a_generation_up_has_what_it_needs() -> None:
    """The same server, in the same way; nothing that is the default."""
    parser = build_parser({})
    assert watch_command(parser.parse_args(["generate", "a"]), "mine") == "imagegen watch mine"
    options = "--server there:1 --tls --allow-plaintext-credentials --ca a.pem --api-key-file 'my key'"
    arguments = parser.parse_args(["generate", "a", *shlex.split(options)])
    assert watch_command(arguments, "mine") == f"imagegen watch mine {options}"


@pytest.mark.parametrize(
    ("reason", "last"),
    [
        ("", "The generation goes on: imagegen watch id"),
        ("DEADLINE_PASSED", "Go on: imagegen watch id"),
        ("DEADLINE_CANNOT_BE_MET", "too late"),
    ],
)
def test_a_generation_that_outlives_its_deadline_can_be_taken_up(reason: str, last: str) -> None:
    """Whether gRPC ended the call or the server, but not if nothing was begun."""
    where = Circumstances(server="there:1", connected=True, again="imagegen watch id")
    error = errors.DeadlineExceededError("too late", details=ErrorDetails(reason=reason))
    assert failure_text(error, where).splitlines()[-1] == last
