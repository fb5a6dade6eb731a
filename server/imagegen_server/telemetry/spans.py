"""The span of one call, from its arrival to the end of its generation. Needs the extra `otel`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, Tracer, set_span_in_context

from imagegen_server.core import GenerationRequest, Outcome, Plan, Stage
from imagegen_server.telemetry.closed_sets import RPC_CODES
from imagegen_server.telemetry.traces import TraceRef

SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""The codes that make a server's span an error, after OpenTelemetry's conventions for gRPC."""
_CODE_NUMBERS: Final = {name: number for number, name in enumerate(RPC_CODES)}
"""gRPC's codes by name; the catalogue has them in the order of their numbers."""


@dataclass(kw_only=True, slots=True)
class _StageTimes:
    """What becomes a stage's span. Nanoseconds since the epoch; no end and no outcome while it runs."""

    stage: Stage
    image_index: int | None
    began: int
    ended: int | None = None
    outcome: Outcome | None = None


class CallTrace:
    """The span of one call, and of the generation that it asked for. Thread-safe.

    Stages are noted while the device works, and become spans with those times when the generation has ended: to make a
    span between two steps takes ten times as long.
    """

    def __init__(self, span: Span, *, has_parent: bool) -> None:
        """Args: the call's span, begun; whether the caller named the trace."""
        context = span.get_span_context()
        self.span = span
        self.recording = span.is_recording()
        self.request: GenerationRequest | None = None
        self.ref: TraceRef | None = None
        """None if nobody could find the trace: it is not sampled, and its id was drawn here."""
        if has_parent or context.trace_flags.sampled:
            self.ref = TraceRef(trace_id=f"{context.trace_id:032x}", sampled=context.trace_flags.sampled)
        self._context = set_span_in_context(span, Context())
        self._lock = threading.Lock()
        self._stages: list[_StageTimes] = []
        """In the order in which they began."""
        self._steps: dict[Stage, int] = {}
        self._unfinished = 1
        """Of the call and its generation."""
        self._error_type = ""

    def begin_generation(self, request: GenerationRequest, plan: Plan) -> None:
        """Describes the generation, without its prompts."""
        self.request = request
        self._unfinished += 1
        self._steps = {planned.stage: planned.steps for planned in plan.stages if planned.steps}
        self.span.set_attributes(dict(_request_attributes(request, plan)))

    def begin_stage(self, stage: Stage, image_index: int | None) -> None:
        """Notes that a stage began, unless the generation has ended."""
        began = time.time_ns()
        with self._lock:
            if self.request is not None:
                self._stages.append(_StageTimes(stage=stage, image_index=image_index, began=began))

    def end_stage(self, stage: Stage, image_index: int | None, outcome: Outcome) -> None:
        """Notes that a stage ended, if it is open."""
        now = time.time_ns()
        with self._lock:
            for times in self._stages:
                if times.ended is None and (times.stage, times.image_index) == (stage, image_index):
                    times.ended, times.outcome = now, outcome

    def end_generation(self, tracer: Tracer, outcome: Outcome, error: Exception | None) -> None:
        """Makes the stages' spans, ends those that are open, and ends the call's span if the call has ended."""
        now = time.time_ns()
        with self._lock:
            self.request = None
            stages, self._stages = self._stages, []
        for times in stages:
            self._record_stage(tracer, times, now, outcome)
        self.span.set_attribute("imagegen.outcome", outcome.value)
        if outcome is Outcome.ERROR and error is not None:
            self._fail(type(error).__name__)
        self._finish_one()

    def end_call(self, code: str) -> None:
        """Notes the name of the call's status code, and ends the span if the generation has ended."""
        self.span.set_attribute("rpc.grpc.status_code", _CODE_NUMBERS.get(code, _CODE_NUMBERS["UNKNOWN"]))
        if code in SERVER_ERRORS:
            self._fail(code)
        self._finish_one()

    def _record_stage(self, tracer: Tracer, times: _StageTimes, now: int, outcome_of_all: Outcome) -> None:
        outcome = times.outcome or outcome_of_all
        attributes: dict[str, str | int] = {"imagegen.stage": times.stage.value, "imagegen.outcome": outcome.value}
        if times.image_index is not None:
            attributes["imagegen.image_index"] = times.image_index
        if times.stage in self._steps:
            attributes["imagegen.steps"] = self._steps[times.stage]
        span = tracer.start_span(
            times.stage.value, context=self._context, attributes=attributes, start_time=times.began
        )
        if outcome in (Outcome.ERROR, Outcome.DEADLINE):
            span.set_status(StatusCode.ERROR, outcome.value)
        span.end(times.ended or now)

    def _fail(self, error_type: str) -> None:
        """Makes the span an error. What the generation failed with comes first, and says more than the code."""
        if not self._error_type:
            self._error_type = error_type
            self.span.set_attribute("error.type", error_type)
            self.span.set_status(StatusCode.ERROR, error_type)

    def _finish_one(self) -> None:
        with self._lock:
            self._unfinished -= 1
            over = not self._unfinished
        if over:
            self.span.end()


def _request_attributes(request: GenerationRequest, plan: Plan) -> Iterable[tuple[str, str | int]]:
    yield "imagegen.request_id", request.request_id
    yield "imagegen.model", request.model
    yield "imagegen.width", request.width
    yield "imagegen.height", request.height
    yield "imagegen.images", request.num_images
    yield "imagegen.seed", request.seed
    yield "imagegen.scheduler", request.scheduler
    yield "imagegen.priority", request.priority.value
    yield "imagegen.precision", plan.precision.value
    if plan.refiner_mode is not None:
        yield "imagegen.refiner_mode", plan.refiner_mode.value
    yield from _steps(plan)


def _steps(plan: Plan) -> Iterator[tuple[str, int]]:
    for planned in plan.stages:
        if planned.steps:
            yield f"imagegen.{planned.stage.value}_steps", planned.steps
