"""What a server's life is in its log: one line for each event, without prompts unless the operator wants them.

Prompts are taken out of error texts as well, where they are long enough to be told apart. Lines that anybody can cause,
at any rate, are few.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from imagegen_server.core import (
    Adaptation,
    AuthFailure,
    EngineObserver,
    FallbackTaken,
    GenerationRequest,
    Outcome,
    Plan,
    Refusal,
    RejectReason,
    Stage,
    Usage,
)
from imagegen_server.errors import DeviceLost, ImageGenError
from imagegen_server.telemetry.sparing import Sparing
from imagegen_server.telemetry.traces import TraceRef, Traces, Untraced

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

_SHORTEST_SECRET = 4
"""Prompts with fewer characters than this are left in error texts: taking out every "a" would hide the error."""


class LogObserver(EngineObserver):
    """Writes one line for each event in a generation's life, with its request id, and its trace's id if it has one.

    Steps and queue lengths are metrics.

    A stage's start is a debug line: its end, with outcome and duration, is the transition.
    """

    def __init__(
        self,
        logger: BoundLogger,
        *,
        log_prompts: bool = False,
        traces: Traces | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: where lines go; whether prompts may be in them; where trace ids come from, if anywhere; a clock."""
        self._logger = logger
        self._sparing = Sparing(clock)
        self._of_tenants = Sparing(clock, seconds=1.0)
        self._log_prompts = log_prompts
        self._traces = traces or Untraced()

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        """Logs what will be executed."""
        prompts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt} if self._log_prompts else {}
        self._logger.info(
            "accepted",
            **_ids(request.request_id, self._traces.current()),
            **_caller(request),
            model=request.model,
            seed=request.seed,
            width=request.width,
            height=request.height,
            num_images=request.num_images,
            scheduler=request.scheduler,
            steps={planned.stage.value: planned.steps for planned in plan.stages if planned.steps},
            precision=plan.precision.value,
            priority=request.priority.value,
            **prompts,
        )

    def rejected(self, refusal: Refusal) -> None:
        """Logs a refusal, without the model: it is the caller's text. At a bounded rate for each reason and tenant."""
        fields: dict[str, object] = {
            **_ids(refusal.request_id, self._traces.current()),
            **_caller(refusal),
            "reason": refusal.reason.value,
        }
        if refusal.details:
            fields["details"] = list(refusal.details)
        sparing = self._sparing if refusal.reason is RejectReason.AUTH else self._of_tenants
        self._sparingly("rejected", sparing.take(f"rejected {refusal.reason.value} {refusal.tenant}"), fields)

    def stage_started(self, request: GenerationRequest, stage: Stage, image_index: int | None) -> None:
        """Logs a stage's start, for debugging."""
        self._logger.debug("stage started", **self._ids_of(request), stage=stage.value, image_index=image_index)

    def stage_ended(
        self, request: GenerationRequest, stage: Stage, image_index: int | None, outcome: Outcome, elapsed: float
    ) -> None:
        """Logs a stage's end."""
        self._logger.info(
            "stage ended",
            **self._ids_of(request),
            stage=stage.value,
            image_index=image_index,
            outcome=outcome.value,
            seconds=round(elapsed, 6),
        )

    def fallback(self, request: GenerationRequest, taken: FallbackTaken) -> None:
        """Logs a departure from the plan."""
        self._logger.warning(
            "fallback",
            **self._ids_of(request),
            kind=taken.kind.value,
            from_stage=taken.from_stage.value,
            to_stage=taken.to_stage.value,
            reason=taken.reason.value,
            message=self._clean(taken.message, request),
        )

    def cancelled(self, request: GenerationRequest, stage: Stage, latency: float) -> None:
        """Logs a stop."""
        self._logger.info("cancelled", **self._ids_of(request), stage=stage.value, latency_seconds=round(latency, 6))

    def rows_capped(self, stage: Stage, rows: int) -> None:
        """Logs that batches become smaller for good."""
        self._logger.warning("rows capped", stage=stage.value, rows=rows)

    def adapted(self, adaptation: Adaptation) -> None:
        """Logs what the runner gave up for good."""
        self._logger.warning("gave up", feature=adaptation.feature.value, why=adaptation.message)

    def used(self, request: GenerationRequest, outcome: Outcome, usage: Usage) -> None:
        """Logs what it took from the device."""
        joules = usage.energy_joules
        self._logger.info(
            "used",
            **self._ids_of(request),
            device_seconds=round(usage.device_seconds, 6),
            wasted_device_seconds=round(usage.wasted_device_seconds, 6),
            energy_joules=None if joules is None else round(joules, 3),
            peak_memory_bytes=usage.peak_memory_bytes,
        )

    def ended(self, request: GenerationRequest, outcome: Outcome, elapsed: float, error: Exception | None) -> None:
        """Logs the end: as an error with its traceback, if it was a bug or a failure of the device."""
        fields: dict[str, object] = {
            **self._ids_of(request),
            **_caller(request),
            "outcome": outcome.value,
            "seconds": round(elapsed, 6),
        }
        if error is not None:
            fields["error"] = type(error).__name__
            fields["message"] = self._clean(str(error), request)
        if outcome is not Outcome.ERROR:
            self._logger.info("ended", **fields)
            return
        if error is not None and not isinstance(error, ImageGenError):
            fields["traceback"] = self._clean("".join(traceback.format_exception(error)), request)
        self._logger.error("ended", **fields)

    def auth_failed(self, failure: AuthFailure) -> None:
        """Logs why credentials were refused, and for which method: few for each reason."""
        fields: dict[str, object] = {
            **_ids(failure.request_id, self._traces.current()),
            **_caller(failure),
            "method": failure.method,
            "reason": failure.reason,
            "detail": failure.detail,
        }
        self._sparingly("credentials refused", self._sparing.take(failure.reason), fields)

    def bug(self, method: str, request_id: str, error: BaseException) -> None:
        """Logs what a handler raised by mistake. The request is unknown here, so the error's own text is left out."""
        ids = _ids(request_id, self._traces.current())
        fields: dict[str, object] = {"method": method, **ids, "error": type(error).__name__}
        if self._log_prompts:
            fields["message"] = str(error)
        fields["traceback"] = "".join(traceback.format_tb(error.__traceback__))
        self._logger.error("bug", **fields)

    def device_lost(self, error: BaseException) -> None:
        """Logs what ended the device thread, and with it the server; an error's own text only if it is the device's."""
        fields: dict[str, object] = {"error": type(error).__name__}
        if self._log_prompts or isinstance(error, DeviceLost):
            fields["message"] = str(error)
            fields["traceback"] = "".join(traceback.format_exception(error))
        else:
            fields["traceback"] = "".join(traceback.format_tb(error.__traceback__))
        self._logger.error("device lost", **fields)

    def listener_failed(self, event: str, error: Exception) -> None:
        """Logs what a listener raised at an event; for `fan_out`."""
        self._logger.error("listener failed", event_name=event, error=type(error).__name__, message=str(error))

    def _sparingly(self, event: str, left_out: int | None, fields: dict[str, object]) -> None:
        """Logs what callers can cause at any rate: how many were left out, or for debugging that this one is."""
        if left_out is None:
            self._logger.debug(event, **fields)
        else:
            self._logger.info(event, **fields, left_out=left_out)

    def _ids_of(self, request: GenerationRequest) -> dict[str, str]:
        """Returns what identifies a generation that was accepted before."""
        return _ids(request.request_id, self._traces.of(request))

    def _clean(self, text: str, request: GenerationRequest) -> str:
        """Returns a text without the request's prompts, as they are or as Python writes them in quotes."""
        if self._log_prompts:
            return text
        for secret in _longest_first(_prompts(request)):
            text = text.replace(secret, "[prompt]").replace(repr(secret)[1:-1], "[prompt]")
        return text


def _ids(request_id: str, trace: TraceRef | None) -> dict[str, str]:
    """Returns the fields that lead from a line to its request and its trace."""
    return {"request_id": request_id} if trace is None else {"request_id": request_id, "trace_id": trace.trace_id}


def _caller(whose: GenerationRequest | Refusal | AuthFailure) -> dict[str, str]:
    """Returns the fields that say who called: the tenant, and which of its API keys; none where that is not known."""
    known = {"tenant": whose.tenant, "key_id": whose.key_id}
    return {name: value for name, value in known.items() if value}


def _prompts(request: GenerationRequest) -> Iterator[str]:
    """Yields every text that the caller wrote."""
    yield request.prompt
    yield request.prompt_2
    yield request.negative_prompt or ""
    yield request.negative_prompt_2
    if request.refiner is not None:
        yield request.refiner.prompt


def _longest_first(texts: Iterable[str]) -> list[str]:
    """Returns the texts worth hiding, so that none is left over from a longer one that contains it."""
    return sorted({text for text in texts if len(text) >= _SHORTEST_SECRET}, key=len, reverse=True)
