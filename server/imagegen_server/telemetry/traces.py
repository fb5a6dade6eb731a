"""What the metrics and the log know of a trace: its id. Needs nothing; the spans are in `tracing`, an extra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from imagegen_server.core import GenerationRequest
from imagegen_server.errors import StartupError

if TYPE_CHECKING:
    from imagegen_server.telemetry.otlp import OtlpExport, Warn

EXTRA: Final = "imagegen[server,otel]"
"""What has to be installed for tracing."""


@dataclass(kw_only=True, frozen=True, slots=True)
class TraceRef:
    """Names a trace in a log line or an exemplar."""

    trace_id: str
    """32 lower-case hexadecimal digits."""
    sampled: bool
    """Whether this server exports its part of the trace."""

    @property
    def exemplar(self) -> dict[str, str] | None:
        """Labels of a metric's exemplar; None if there would be no trace to find."""
        return {"trace_id": self.trace_id} if self.sampled else None


class Traces(Protocol):
    """Finds the trace of what is going on. Thread-safe; answers at once."""

    def current(self) -> TraceRef | None:
        """Returns the trace of the call whose task this is; None outside of traced calls."""
        ...

    def of(self, request: GenerationRequest) -> TraceRef | None:
        """Returns the trace of a generation, from after its `accepted` to its `ended`; else None."""
        ...


class Untraced:
    """Knows no trace: tracing is off."""

    def current(self) -> TraceRef | None:
        """Returns None."""
        return None

    def of(self, request: GenerationRequest) -> TraceRef | None:
        """Returns None."""
        return None


def exemplar(trace: TraceRef | None) -> dict[str, str] | None:
    """Returns the exemplar of a trace that may not be there."""
    return None if trace is None else trace.exemplar


def open_export(*, endpoint: str | None, sample_ratio: float | None, version: str, warn: Warn) -> OtlpExport:
    """Begins to send spans to an OTLP collector, and imports what that needs.

    Args:
        endpoint: URL of the collector's gRPC port; None leaves it to the SDK's own variables.
        sample_ratio: part of the traces begun here that are kept, 0 to 1; None leaves it to the SDK's own variables.
        version: of this server.
        warn: hears what goes wrong, as an event and its fields.

    Raises StartupError if the extra is not installed, or if one of the SDK's variables is wrong.
    """
    try:
        from imagegen_server.telemetry.otlp import OtlpExport  # noqa: PLC0415 - an extra that few servers have
    except ImportError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise StartupError(f"tracing needs an extra that is not installed: pip install '{EXTRA}'") from error
    try:
        return OtlpExport(endpoint=endpoint, sample_ratio=sample_ratio, version=version, warn=warn)
    except (OSError, ValueError) as error:
        raise StartupError(f"tracing cannot start, check the OTEL_* variables: {error}") from error
