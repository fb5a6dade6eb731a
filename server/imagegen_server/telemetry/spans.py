"""The span of one call, from its arrival to the end of its generation. Needs the extra `otel`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, Tracer, set_span_in_context

from imagegen_server.core import GenerationRequest, Outcome, Plan, Stage
from imagegen_server.telemetry.metrics import RPC_CODES
from imagegen_server.telemetry.traces import TraceRef

SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""The codes that make a server's span an error, after OpenTelemetry's conventions for gRPC."""
_CODE_NUMBERS: Final = {name: number for number, name in enumerate(RPC_CODES)}
"""gRPC's codes by name; the catalogue has them in the order of their numbers."""


class CallTrace:
    """The span of one call, and of the generation that it asked for. Thread-safe."""

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
        self._stages: dict[tuple[Stage, int | None], Span] = {}
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

    def begin_stage(self, tracer: Tracer, stage: Stage, image_index: int | None) -> None:
        """Begins a stage's span, unless the generation has ended."""
        attributes: dict[str, str | int] = {"imagegen.stage": stage.value}
        if image_index is not None:
            attributes["imagegen.image_index"] = image_index
        if stage in self._steps:
            attributes["imagegen.steps"] = self._steps[stage]
        span = tracer.start_span(stage.value, context=self._context, attributes=attributes)
        with self._lock:
            if self.request is not None:
                self._stages[stage, image_index] = span

    def end_stage(self, stage: Stage, image_index: int | None, outcome: Outcome) -> None:
        """Ends a stage's span, if it is open."""
        with self._lock:
            span = self._stages.pop((stage, image_index), None)
        if span is not None:
            _end_stage(span, outcome)

    def end_generation(self, outcome: Outcome, error: Exception | None) -> None:
        """Ends what is open of the generation, and the span if the call has ended."""
        with self._lock:
            self.request = None
            left, self._stages = list(self._stages.values()), {}
        for span in left:
            _end_stage(span, outcome)
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


def _end_stage(span: Span, outcome: Outcome) -> None:
    span.set_attribute("imagegen.outcome", outcome.value)
    if outcome in (Outcome.ERROR, Outcome.DEADLINE):
        span.set_status(StatusCode.ERROR, outcome.value)
    span.end()
