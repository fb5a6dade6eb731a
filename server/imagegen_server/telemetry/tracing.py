"""One span for each call that asks for a generation, with a child for each stage. Needs the extra `otel`.

The call's span begins when the call reaches its handler and ends when both the call and its generation have ended: a
generation whose caller left is stopped by the device a moment later. In between

- `started`, `accepted`, `rejected` and `handled` are told in the call's own task, so a context variable leads from
  one to the next, whatever request ids are in use;
- everything else comes from the engine's threads, and finds the span by the request object.

No span has a prompt or the text of an error.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from imagegen_server.core import (
    EngineObserver,
    FallbackTaken,
    GenerationKey,
    GenerationRequest,
    Metadata,
    Outcome,
    Plan,
    Refusal,
    RejectReason,
    RpcMethod,
    Stage,
    Usage,
)
from imagegen_server.telemetry.rpc_observer import RpcEvents, StatusCode
from imagegen_server.telemetry.spans import CallTrace
from imagegen_server.telemetry.traces import TraceRef

GENERATING: Final = frozenset({"GenerateImage", "RenderImage"})
"""The methods whose calls are traced."""
_PARENT_KEYS: Final = ("traceparent", "tracestate")


class Tracing(EngineObserver, RpcEvents):
    """Turns calls and the engine's events into spans.

    As a listener of the engine it belongs behind those that ask `of` for a trace: it forgets the generation at `ended`.
    """

    def __init__(self, tracer: Tracer) -> None:
        """Args: what begins spans."""
        self._tracer = tracer
        self._call: ContextVar[CallTrace | None] = ContextVar("imagegen_call_trace", default=None)
        self._generations: dict[GenerationKey, CallTrace] = {}
        """From `accepted` to `ended`."""

    # -- Traces -------------------------------------------------------------------------------------------------

    def current(self) -> TraceRef | None:
        """Returns the trace of the call whose task this is."""
        call = self._call.get()
        return None if call is None else call.ref

    def of(self, request: GenerationRequest) -> TraceRef | None:
        """Returns the trace of a generation that has not ended."""
        found = self._find(request)
        return None if found is None else found.ref

    # -- the edge, in the call's task ---------------------------------------------------------------------------

    def started(self, method: RpcMethod, metadata: Metadata) -> None:
        """Begins the span of a call that asks for a generation, as a child of the caller's."""
        if method.method not in GENERATING:
            return
        parent = _parent(metadata)
        span = self._tracer.start_span(
            f"{method.service}/{method.method}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.method},
        )
        self._call.set(CallTrace(span, has_parent=get_current_span(parent).get_span_context().is_valid))

    def handled(self, method: RpcMethod, code: StatusCode, seconds: float) -> None:
        """Notes the call's status."""
        call = self._call.get()
        if call is not None:
            self._call.set(None)
            call.end_call(code.name)

    # -- the engine ---------------------------------------------------------------------------------------------

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        """Describes the generation, in the task of its call."""
        call = self._call.get()
        if call is not None:
            call.begin_generation(request, plan)
            self._generations[request.key] = call

    def rejected(self, refusal: Refusal) -> None:
        """Notes why, in the task of the call; without the model, which is the caller's text."""
        call = self._call.get()
        if call is not None:
            outcome = Outcome.INVALID if refusal.reason is RejectReason.INVALID else Outcome.REJECTED
            call.span.set_attributes(
                {
                    "imagegen.request_id": refusal.request_id,
                    "imagegen.outcome": outcome.value,
                    "imagegen.reject_reason": refusal.reason.value,
                }
            )

    def first_turn(self, request: GenerationRequest, waited: float) -> None:
        """Notes the wait."""
        self._note(request, {"imagegen.queue_wait_seconds": waited})

    def first_progress(self, request: GenerationRequest, elapsed: float) -> None:
        """Notes the time to the first step."""
        self._note(request, {"imagegen.first_progress_seconds": elapsed})

    def stage_started(self, request: GenerationRequest, stage: Stage, image_index: int | None) -> None:
        """Begins a stage."""
        found = self._find(request)
        if found is not None and found.recording:
            found.begin_stage(stage, image_index)

    def stage_ended(
        self, request: GenerationRequest, stage: Stage, image_index: int | None, outcome: Outcome, elapsed: float
    ) -> None:
        """Ends it."""
        found = self._find(request)
        if found is not None:
            found.end_stage(stage, image_index, outcome)

    def fallback(self, request: GenerationRequest, taken: FallbackTaken) -> None:
        """Adds an event to the call's span."""
        found = self._find(request)
        if found is not None:
            attributes = {
                "imagegen.fallback.kind": taken.kind.value,
                "imagegen.fallback.from_stage": taken.from_stage.value,
                "imagegen.fallback.to_stage": taken.to_stage.value,
                "imagegen.fallback.reason": taken.reason.value,
            }
            found.span.add_event("fallback", attributes)

    def used(self, request: GenerationRequest, outcome: Outcome, usage: Usage) -> None:
        """Notes what the device spent."""
        known = {
            "imagegen.device_seconds": usage.device_seconds,
            "imagegen.wasted_device_seconds": usage.wasted_device_seconds,
            "imagegen.energy_joules": usage.energy_joules,
            "imagegen.peak_memory_bytes": usage.peak_memory_bytes,
        }
        self._note(request, {name: value for name, value in known.items() if value is not None})

    def ended(self, request: GenerationRequest, outcome: Outcome, elapsed: float, error: Exception | None) -> None:
        """Ends the generation's part of the span, and forgets it."""
        found = self._find(request)
        if found is not None:
            del self._generations[request.key]
            found.end_generation(self._tracer, outcome, error)

    def _find(self, request: GenerationRequest) -> CallTrace | None:
        """Returns a living generation's trace: not that of a later one with the same id."""
        found = self._generations.get(request.key)
        return found if found is not None and found.request is request else None

    def _note(self, request: GenerationRequest, attributes: dict[str, float]) -> None:
        found = self._find(request)
        if found is not None:
            found.span.set_attributes(attributes)


def _parent(metadata: Metadata) -> Context:
    """Returns the caller's span as a context; an empty one if there is none, or if it is not well-formed."""
    carrier: dict[str, list[str]] = {}
    for key, value in metadata:
        if key in _PARENT_KEYS and isinstance(value, str):
            carrier.setdefault(key, []).append(value)
    return TraceContextTextMapPropagator().extract(carrier, Context())
