"""What the metrics and the log know of a trace: its id. Needs nothing; the spans are in `tracing`, an extra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from imagegen_server.core import GenerationRequest


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
