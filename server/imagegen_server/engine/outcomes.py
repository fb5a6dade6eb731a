"""What the ways in which a stage or a generation can end are called."""

from __future__ import annotations

from imagegen_server.core import FallbackReason, GenerationState, Outcome
from imagegen_server.errors import Cancelled, DeadlineExceeded, NonFinite, OutOfDeviceMemory


def fallback_reason(failure: Exception) -> FallbackReason:
    """Returns the reason that names a stage's failure."""
    if isinstance(failure, OutOfDeviceMemory):
        return FallbackReason.OOM
    return FallbackReason.NAN if isinstance(failure, NonFinite) else FallbackReason.ERROR


def outcome_of(error: Exception | None, *, degraded: bool) -> Outcome:
    """Returns the outcome that names how an admitted generation ended."""
    if error is None:
        return Outcome.DEGRADED if degraded else Outcome.OK
    if isinstance(error, Cancelled):
        return Outcome.CANCELLED
    return Outcome.DEADLINE if isinstance(error, DeadlineExceeded) else Outcome.ERROR


def final_state(outcome: Outcome) -> GenerationState:
    """Returns the terminal state of an outcome."""
    if outcome in (Outcome.OK, Outcome.DEGRADED):
        return GenerationState.COMPLETED
    return GenerationState.CANCELLED if outcome is Outcome.CANCELLED else GenerationState.FAILED
