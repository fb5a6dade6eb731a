"""What the command line says about failures: text for people, one JSON object for programs, an exit code."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from imagegen import errors
from imagegen._channel import UNARY_TIMEOUT


class ExitCode(enum.IntEnum):
    """How the process ends; the list is in --help."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    DEADLINE = 5
    CANCELLED = 6
    INTERRUPTED = 130


EXIT_CODES: Final[Mapping[type[errors.ImageGenError], ExitCode]] = {
    errors.ImageGenError: ExitCode.FAILED,
    errors.InvalidRequestError: ExitCode.USAGE,
    errors.NotFoundError: ExitCode.USAGE,
    errors.AlreadyExistsError: ExitCode.USAGE,
    errors.PreconditionError: ExitCode.USAGE,
    errors.AuthenticationError: ExitCode.USAGE,
    errors.AccessDeniedError: ExitCode.USAGE,
    errors.ResourceExhaustedError: ExitCode.REFUSED,
    errors.OutOfMemoryError: ExitCode.FAILED,
    errors.ServiceUnavailableError: ExitCode.REFUSED,
    errors.UnreachableError: ExitCode.UNREACHABLE,
    errors.DeadlineExceededError: ExitCode.DEADLINE,
    errors.GenerationCancelledError: ExitCode.CANCELLED,
}
"""Exit codes of errors; a class without one has its parent's."""


_REFUSES_TO_TALK: Final = re.compile(r"\b(SSL|TLS|handshaker?|verification|parsing HTTP/2)\b|Socket closed", re.I)
"""What gRPC says where something listens that it cannot talk to: wrong certificates, or TLS on one side only."""

_HAS_A_CERTIFICATE: Final = re.compile(r"CERTIFICATE_VERIFY_FAILED|Hostname Verification")
"""What gRPC says of a certificate that it does not take."""

_CHECKS: Final = (
    "--ca FILE and --certificate FILE, that its certificate has\nthe name of HOST (else say --tls-server-name), "
    "and that PORT is the one for gRPC."
)


_CALL_IS_OVER: Final = frozenset({"", "DEADLINE_PASSED"})
"""Reasons of a deadline that ends the call and not what outlives it: the time was up here, or the server said so."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Circumstances:
    """What a failure is told in the light of."""

    server: str
    """Who was asked."""
    connected: bool = False
    """Whether the server had answered before."""
    seconds: float = UNARY_TIMEOUT
    """How long the command waited for an answer."""
    listening: bool = False
    """Whether somebody takes connections there, as far as that is known."""
    tls: str = ""
    """The options that ask for TLS, such as --tls; empty for plain text."""
    again: str = ""
    """The command that takes the generation up again; empty if it does not go on without this one."""


def is_silence(error: BaseException, where: Circumstances) -> bool:
    """Returns whether nobody ever answered: the time was up, and it was not the server that said so."""
    return isinstance(error, errors.DeadlineExceededError) and not error.details.reason and not where.connected


def exit_code(error: errors.ImageGenError, where: Circumstances) -> ExitCode:
    """Returns the exit code of an error."""
    if is_silence(error, where):
        return ExitCode.UNREACHABLE
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def failure_json(error: BaseException, code: ExitCode, request_id: str = "") -> dict[str, Any]:
    """Returns the JSON object of a failure; everything but `error` and `exit_code` may be empty.

    `request_id` is the generation that the command was about, of which the error itself may know nothing.
    """
    facts: dict[str, Any] = {"type": type(error).__name__, "message": str(error) or "interrupted"}
    if request_id:
        facts["request_id"] = request_id
    if isinstance(error, errors.ImageGenError):
        facts |= {
            "code": error.code.name,
            "request_id": error.request_id or request_id,
            "reason": error.details.reason,
            "metadata": dict(error.details.metadata),
            "violations": [dataclasses.asdict(violation) for violation in error.details.violations],
            "retry_after": error.retry_after,
        }
    return {"error": facts, "exit_code": int(code)}


def failure_text(error: BaseException, where: Circumstances) -> str:
    """Returns a failure for people."""
    if isinstance(error, errors.UnreachableError) and not isinstance(error, errors.GenerationLostError):
        return _unreachable(error, where)
    if is_silence(error, where):
        return f"no answer from {where.server} within {where.seconds:g} s"
    if not isinstance(error, errors.ImageGenError):
        return str(error)
    lines = [error.message]
    if len(error.details.violations) > 1:
        lines = ["the request is invalid:"]
        lines += [f"  {violation.field}: {violation.description}" for violation in error.details.violations]
    if error.retry_after is not None:
        lines.append(f"Try again in {error.retry_after:.1f} s.")
    if error.request_id:
        lines.append(f"Request id: {error.request_id}")
    if isinstance(error, errors.DeadlineExceededError) and where.again and error.details.reason in _CALL_IS_OVER:
        state = "Go on" if error.details.reason else "The generation goes on"  # the server's message has said that
        lines.append(f"{state}: {where.again}")
    return "\n".join(lines)


def _about_tls(message: str, options: str) -> str:
    if "WRONG_VERSION_NUMBER" in message:
        return f"It speaks plain text, as a server without a certificate does (the default): leave {options} away."
    if _HAS_A_CERTIFICATE.search(message):
        return f"Check {_CHECKS}"
    return f"If it has no certificate (the default), leave {options} away; else\ncheck {_CHECKS}"


def _unreachable(error: errors.UnreachableError, where: Circumstances) -> str:
    server = where.server
    if where.connected:
        goes_on = f"\nThe generation goes on: {where.again}" if where.again else ""
        return f"the connection to {server} was lost ({error.message}){goes_on}"
    talked = _REFUSES_TO_TALK.search(error.message)
    if talked or where.listening:
        said = f" ({error.message})" if talked else ""  # else it is about another address of the same name
        if where.tls:
            return f"no TLS connection to {server}{said}\n{_about_tls(error.message, where.tls)}"
        return (
            f"somebody answers at {server}, but no connection came about{said}\n"
            f"Does the server speak TLS? Check --tls, {_CHECKS}"
        )
    return (
        f"no server answers at {server} ({error.message})\n"
        "Start one with `make serve` in a checkout of ImageGen,\n"
        "or name another with --server HOST:PORT or IMAGEGEN_SERVER; one with TLS needs --tls or --ca FILE."
    )
