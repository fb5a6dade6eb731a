"""The table of reasons in docs/calls.md: an error for each, as the server writes it, and what its caller can do.

`make calls-reference` writes it anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagegen_server.api import ending
from imagegen_server.api.interceptors import unimplemented
from imagegen_server.api.status import Reason, RpcError, RpcFailure, failure_of
from imagegen_server.core import Stage
from imagegen_server.errors import (
    AlreadyExists,
    Cancelled,
    CredentialsReason,
    DeadlineExceeded,
    DeviceLost,
    EventsNotKept,
    ImageGenError,
    InvalidRequest,
    NonFinite,
    NotFound,
    OutOfDeviceMemory,
    PermissionDenied,
    QueueFull,
    QuotaExceeded,
    QuotaReason,
    RefinerUnavailable,
    ReplyTooLarge,
    StageError,
    StartupError,
    Unauthenticated,
    Unavailable,
    UnavailableReason,
    Violation,
)

CALLS: Final = Path(__file__).resolve().parents[2] / "docs" / "calls.md"
NO: Final = "no"


@dataclass(kw_only=True, frozen=True, slots=True)
class Row:
    """A reason."""

    error: Exception
    """One with everything that such an error can say."""
    means: str
    again: str = ""
    """Whether another attempt makes sense where `RetryInfo` does not say so."""


ROWS: Final = (
    Row(
        error=InvalidRequest((Violation(field="prompt", description="is required"),)),
        means="the request is wrong, in every point named",
        again=NO,
    ),
    Row(error=NotFound("model", "m", "no such model"), means="no such model profile, or it is not loaded", again=NO),
    Row(error=NotFound("scheduler", "s", "no such scheduler"), means="the model has no such scheduler", again=NO),
    Row(
        error=NotFound("generation", "g", "no such generation"),
        means="no such generation, or it is forgotten, or another tenant's",
        again=NO,
    ),
    Row(error=NotFound("thing", "t", "no such thing"), means="something else does not exist", again=NO),
    Row(
        error=RefinerUnavailable("not loaded"),
        means="refinement was asked for, and this server has no refiner",
        again="without refinement",
    ),
    Row(
        error=AlreadyExists("g", "in use"),
        means="the request id is in use, or was used with another body",
        again="with another id, or once that generation has ended",
    ),
    Row(error=QueueFull(8, 1.0), means="too many generations wait"),
    Row(
        error=QuotaExceeded(QuotaReason.TENANT_CONCURRENCY, "used up", 1.0),
        means="the tenant has as many generations in flight as it may",
    ),
    Row(
        error=QuotaExceeded(QuotaReason.TENANT_STEP_RATE, "used up", 1.0),
        means="the tenant has used the steps of this time",
    ),
    Row(
        error=Unauthenticated(CredentialsReason.MISSING, "missing"),
        means="no certificate, key or token was shown",
        again="with one",
    ),
    Row(error=Unauthenticated(CredentialsReason.INVALID, "invalid"), means="nobody here knows them", again=NO),
    Row(error=Unauthenticated(CredentialsReason.EXPIRED, "expired"), means="they have expired", again="with new ones"),
    Row(error=PermissionDenied("no"), means="the caller may not make this call", again=NO),
    Row(
        error=DeadlineExceeded("late", estimate=9.0, remaining=2.0),
        means="refused: it would take longer than there is time",
        again="with more time, or less work",
    ),
    Row(
        error=DeadlineExceeded("late", stage=Stage.BASE, step=3),
        means="the time was up, at this stage and step if it had begun",
        again="with more time, or less work",
    ),
    Row(error=Cancelled("stopped"), means="the generation was stopped", again=NO),
    Row(
        error=ReplyTooLarge("2 GiB"),
        means="the images do not fit into one answer",
        again="with `GenerateImage`, or without image bytes",
    ),
    Row(
        error=EventsNotKept("gone", first_kept=7), means="events to watch are gone", again="from `first_kept_sequence`"
    ),
    Row(error=OutOfDeviceMemory("memory"), means="not enough memory, after every fallback", again="with less work"),
    Row(error=NonFinite("nan"), means="a stage produced NaN or infinity", again="with another seed or prompt"),
    Row(error=DeviceLost("lost"), means="the device failed, and the server ends"),
    Row(error=StageError("failed"), means="a stage failed", again="once"),
    Row(error=StartupError("no"), means="the server could not start"),
    Row(error=Unavailable(UnavailableReason.LOADING, "loading"), means="models are being loaded"),
    Row(
        error=Unavailable(UnavailableReason.DRAINING, "draining"),
        means="the server shuts down: better elsewhere",
    ),
    Row(error=Unavailable(UnavailableReason.DEVICE_LOST, "lost"), means="the device failed, and the server ends"),
    Row(error=Unavailable(UnavailableReason.TOKEN_KEYS, "no keys"), means="it has no keys to check tokens with"),
    Row(
        error=RpcError(unimplemented(Reason.NOT_SERVED_YET, "not served")),
        means="the method exists, and this server does not serve it",
        again=NO,
    ),
    Row(error=RpcError(unimplemented(Reason.METHOD_NOT_FOUND, "no such")), means="there is no such method", again=NO),
    Row(error=ImageGenError("a bug"), means="a bug; its operator finds it by the request id", again=NO),
)


def renewed(text: str) -> str:
    """Returns the text of docs/calls.md with the table as it should be."""
    pattern = r"(<!-- reasons: [^\n]* -->\n).*?(<!-- end of reasons -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise ValueError("docs/calls.md has no place for the reasons")
    return re.sub(pattern, lambda place: f"{place[1]}\n{_table()}\n\n{place[2]}", text, flags=re.DOTALL)


def _table() -> str:
    lines = {(failure := failure_of(row.error)).reason: _line(row, failure) for row in ROWS}
    head = ("| code | reason | means | details | metadata | again? |", "|---|---|---|---|---|---|")
    return "\n".join((*head, *lines.values()))


def _line(row: Row, failure: RpcFailure) -> str:
    again = row.again if failure.retry_after is None else "yes, when `RetryInfo` says"
    keys = ", ".join(f"`{key}`" for key in failure.metadata)
    cells = (failure.code.name, f"`{failure.reason}`", row.means, ", ".join(_details(failure)), keys, again)
    return f"| {' | '.join(cells)} |"


def _details(failure: RpcFailure) -> Iterator[str]:
    """Yields the details that not every error has."""
    for packed in ending.rpc_status(failure, "id").details:
        name = packed.TypeName().rpartition(".")[2]
        if name not in {"ErrorInfo", "RequestInfo"}:
            yield f"`{name}`"


if __name__ == "__main__":
    CALLS.write_text(renewed(CALLS.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
