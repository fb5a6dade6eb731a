"""Calls and engine events as spans, with the real SDK: the orders of events that a whole server rarely shows."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from structlog.testing import CapturingLogger

from imagegen_server import core, errors, telemetry
from imagegen_server.telemetry.export import open_export
from imagegen_server.telemetry.traces import TraceRef
from imagegen_server.telemetry.tracing import Tracing

MakeRequest = Callable[..., core.GenerationRequest]
Value = Callable[..., float | None]

GENERATE = core.RpcMethod(type="server_stream", service="imagegen.v1.ImageGen", method="GenerateImage")
CANCEL = core.RpcMethod(type="unary", service="imagegen.v1.ImageGen", method="CancelGeneration")
PARENT = (("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),)
UNSAMPLED = (("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-00"),)

SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""As OpenTelemetry's conventions for gRPC have them (semantic conventions, RPC, "gRPC Status", servers)."""


class Spans:
    """Tracing whose spans end up here. Each test's calls are tasks of their own, as in the server."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._memory = InMemorySpanExporter()
        self._provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.tracing = Tracing(self._provider.get_tracer("test"))

    def call(self, *, metadata: Any = (), method: core.RpcMethod = GENERATE) -> contextvars.Context:
        """Begins a call; what it does runs in the context that this returns."""
        context = contextvars.copy_context()
        context.run(self.tracing.started, method, metadata)
        return context

    def handled(self, context: contextvars.Context, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        """Ends a call."""
        context.run(self.tracing.handled, GENERATE, code, 0.1)

    @property
    def ended(self) -> list[ReadableSpan]:
        """Spans that have ended, in that order."""
        return list(self._memory.get_finished_spans())

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [span.name.rpartition("/")[2] for span in self.ended]


@pytest.fixture
def spans() -> Spans:
    """Tracing that keeps every span."""
    return Spans()


def test_a_span_outlives_a_call_whose_generation_goes_on(
    spans: Spans, make_request: MakeRequest, plan: core.Plan
) -> None:
    """A caller that left is told to the device later: the span ends with the generation, and has both ends."""
    request = make_request()
    context = spans.call()
    context.run(spans.tracing.accepted, request, plan)
    spans.tracing.stage_started(request, core.Stage.BASE, 0)
    spans.handled(context, grpc.StatusCode.CANCELLED)
    assert spans.ended == []
    spans.tracing.stage_ended(request, core.Stage.BASE, 0, core.Outcome.CANCELLED, 0.1)
    spans.tracing.ended(request, core.Outcome.CANCELLED, 0.1, errors.Cancelled("gone"))
    assert spans.names == ["base", "GenerateImage"]
    attributes = dict(spans.ended[-1].attributes or {})
    assert (attributes["rpc.grpc.status_code"], attributes["imagegen.outcome"]) == (1, "cancelled")


def test_tenants_may_use_the_same_id(spans: Spans, make_request: MakeRequest, plan: core.Plan) -> None:
    """Each has its own trace, to the end."""
    requests = [make_request(request_id="same", tenant=tenant) for tenant in ("a", "b")]
    for request in requests:
        context = spans.call()
        context.run(spans.tracing.accepted, request, plan)
        spans.handled(context)
    assert spans.ended == []
    for request in requests:
        spans.tracing.ended(request, core.Outcome.OK, 0.1, None)
    assert spans.names == ["GenerateImage", "GenerateImage"]


def test_nothing_stays_open_or_is_kept(spans: Spans, make_request: MakeRequest, plan: core.Plan) -> None:
    """A stage that an end interrupts ends with it; what comes later is ignored; nothing is remembered."""
    request = make_request()
    context = spans.call()
    context.run(spans.tracing.accepted, request, plan)
    spans.tracing.stage_started(request, core.Stage.IMAGE_ENCODE, 0)
    spans.tracing.ended(request, core.Outcome.DEADLINE, 0.1, errors.DeadlineExceeded("late"))
    spans.tracing.stage_ended(request, core.Stage.IMAGE_ENCODE, 0, core.Outcome.OK, 0.1)
    spans.tracing.stage_started(request, core.Stage.SEND, 0)
    spans.handled(context, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert spans.names == ["image_encode", "GenerateImage"]
    assert dict(spans.ended[0].attributes or {})["imagegen.outcome"] == "deadline"
    assert spans.tracing.of(request) is None
    assert spans.tracing._generations == {}
    assert context.run(spans.tracing.current) is None


def test_late_events_do_not_reach_a_successor(spans: Spans, make_request: MakeRequest, plan: core.Plan) -> None:
    """A repeated request has the same id: an encoder that ends late speaks of the first one, not of the second."""
    first, second = make_request(request_id="same"), make_request(request_id="same")
    old = spans.call()
    old.run(spans.tracing.accepted, first, plan)
    spans.tracing.ended(first, core.Outcome.CANCELLED, 0.1, None)
    new = spans.call()
    new.run(spans.tracing.accepted, second, plan)
    spans.tracing.stage_started(second, core.Stage.IMAGE_ENCODE, 0)
    spans.tracing.stage_ended(first, core.Stage.IMAGE_ENCODE, 0, core.Outcome.OK, 0.1)
    spans.tracing.ended(first, core.Outcome.OK, 0.1, None)
    assert spans.names == []
    assert spans.tracing.of(second) is not None
    spans.tracing.stage_ended(second, core.Stage.IMAGE_ENCODE, 0, core.Outcome.OK, 0.1)
    spans.tracing.ended(second, core.Outcome.OK, 0.1, None)
    assert spans.names == ["image_encode"]


def test_images_that_are_made_at_once_have_stages_of_their_own(
    spans: Spans, make_request: MakeRequest, plan: core.Plan
) -> None:
    """The end of one image's stage is not that of another's."""
    request = make_request(num_images=2)
    context = spans.call()
    context.run(spans.tracing.accepted, request, plan)
    for index in range(2):
        spans.tracing.stage_started(request, core.Stage.IMAGE_ENCODE, index)
    spans.tracing.stage_ended(request, core.Stage.IMAGE_ENCODE, 1, core.Outcome.OK, 0.1)
    spans.tracing.ended(request, core.Outcome.CANCELLED, 0.1, None)
    told = [dict(span.attributes or {}) for span in spans.ended]
    assert [(one["imagegen.image_index"], one["imagegen.outcome"]) for one in told] == [(0, "cancelled"), (1, "ok")]


@pytest.mark.parametrize("method", ["GenerateImage", "RenderImage"])
def test_both_calls_that_ask_for_a_generation_are_traced(spans: Spans, method: str) -> None:
    """As a part of the caller's trace, with all that its headers say of its state."""
    states = (("tracestate", "a=1"), ("tracestate", "b=2"))
    context = spans.call(method=dataclasses.replace(GENERATE, method=method), metadata=(*PARENT, *states))
    spans.handled(context)
    (span,) = spans.ended
    assert span.name.endswith(f"/{method}")
    assert span.context is not None
    assert (span.context.trace_id, dict(span.context.trace_state)) == (int("ab" * 16, 16), {"a": "1", "b": "2"})


def test_other_calls_are_not_traced(spans: Spans, make_request: MakeRequest) -> None:
    """A cancelling call has no span, and what it causes is no part of its own context."""
    context = spans.call(method=CANCEL, metadata=PARENT)
    assert context.run(spans.tracing.current) is None
    context.run(spans.tracing.rejected, core.Refusal(request_id="r", model="m", reason=core.RejectReason.INVALID))
    spans.handled(context)
    assert spans.ended == []


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: str(code.name))
def test_the_codes_that_are_errors(spans: Spans, code: grpc.StatusCode) -> None:
    """A server's span is an error for the codes that are the server's fault, and has gRPC's own number."""
    spans.handled(spans.call(), code)
    (span,) = spans.ended
    attributes = dict(span.attributes or {})
    assert attributes["rpc.grpc.status_code"] == code.value[0]
    assert (not span.status.is_ok) is (code.name in SERVER_ERRORS)
    assert attributes.get("error.type") == (code.name if code.name in SERVER_ERRORS else None)


def test_a_generations_own_error_names_the_span(spans: Spans, make_request: MakeRequest, plan: core.Plan) -> None:
    """What the device failed with is an error even where the code is the caller's to handle; its text stays out."""
    request = make_request()
    context = spans.call()
    context.run(spans.tracing.accepted, request, plan)
    spans.tracing.ended(request, core.Outcome.ERROR, 0.1, errors.OutOfDeviceMemory("a secret castle needs 9 GB"))
    spans.handled(context, grpc.StatusCode.RESOURCE_EXHAUSTED)
    (span,) = spans.ended
    assert (span.status.is_ok, span.status.description) == (False, "OutOfDeviceMemory")
    assert "secret" not in span.to_json()


def test_what_the_device_spent_is_told(spans: Spans, make_request: MakeRequest, plan: core.Plan) -> None:
    """Readings that the device gives are attributes; those that it does not give are absent."""
    request = make_request()
    context = spans.call()
    context.run(spans.tracing.accepted, request, plan)
    usage = core.Usage(device_seconds=1.5, wasted_device_seconds=0.25, energy_joules=300.0, peak_memory_bytes=None)
    spans.tracing.used(request, core.Outcome.OK, usage)
    spans.tracing.ended(request, core.Outcome.OK, 2.0, None)
    spans.handled(context)
    attributes = dict(spans.ended[0].attributes or {})
    assert attributes["imagegen.device_seconds"] == 1.5
    assert attributes["imagegen.wasted_device_seconds"] == 0.25
    assert attributes["imagegen.energy_joules"] == 300.0
    assert "imagegen.peak_memory_bytes" not in attributes


def test_the_context_is_the_tasks_own(spans: Spans) -> None:
    """Calls are tasks: what one of them begins is current in it, in no other, and not outside."""

    async def one(metadata: Any) -> tuple[TraceRef | None, TraceRef | None]:
        spans.tracing.started(GENERATE, metadata)
        await asyncio.sleep(0)
        during = spans.tracing.current()
        spans.tracing.handled(GENERATE, grpc.StatusCode.OK, 0.0)
        return during, spans.tracing.current()

    async def both() -> list[tuple[TraceRef | None, TraceRef | None]]:
        return list(await asyncio.gather(one(PARENT), one(())))

    (first, after), (second, _) = asyncio.run(both())
    assert first == TraceRef(trace_id="ab" * 16, sampled=True)
    assert second is not None
    assert second.trace_id != first.trace_id
    assert after is None
    assert spans.tracing.current() is None


@pytest.mark.parametrize(
    ("metadata", "sampler", "shown"),
    [
        (PARENT, None, TraceRef(trace_id="ab" * 16, sampled=True)),
        (UNSAMPLED, None, TraceRef(trace_id="ab" * 16, sampled=False)),
        ((), ParentBased(ALWAYS_OFF), None),
    ],
    ids=["sampled", "the caller's", "nobody's"],
)
def test_ids_that_lead_somewhere(metadata: Any, sampler: Sampler | None, shown: TraceRef | None) -> None:
    """An id is shown if a trace can be found by it, here or at the caller's; only a kept trace is an exemplar."""
    spans = Spans(sampler)
    found = spans.call(metadata=metadata).run(spans.tracing.current)
    assert found == shown
    exemplar = {"trace_id": "ab" * 16} if shown is not None and shown.sampled else None
    assert (found.exemplar if found is not None else None) == exemplar


def test_lines_and_exemplars_find_the_trace(
    spans: Spans,
    metrics: telemetry.Metrics,
    registry: Any,
    make_request: MakeRequest,
    plan: core.Plan,
) -> None:
    """From `accepted` to `ended`, listeners before tracing see the trace; OpenMetrics has it, the plain form not."""
    from prometheus_client import exposition
    from prometheus_client.openmetrics import exposition as openmetrics

    capture = CapturingLogger()
    log = telemetry.LogObserver(structlog.wrap_logger(capture, processors=[]), traces=spans.tracing)
    observer = telemetry.MetricsObserver(metrics, "shapes", spans.tracing)
    events = telemetry.fan_out(core.EngineObserver, (observer, log, spans.tracing), on_error=_raise)
    request = make_request()
    context = spans.call(metadata=PARENT)
    context.run(events.accepted, request, plan)
    events.first_turn(request, 0.02)
    events.first_progress(request, 0.03)
    events.stage_ended(request, core.Stage.BASE, 0, core.Outcome.OK, 0.7)
    events.ended(request, core.Outcome.OK, 1.5, None)
    context.run(events.rejected, core.Refusal(request_id="other", model="shapes", reason=core.RejectReason.QUEUE_FULL))
    assert [call.kwargs["event"] for call in capture.calls] == ["accepted", "stage ended", "ended", "rejected"]
    assert {call.kwargs["trace_id"] for call in capture.calls} == {"ab" * 16}

    text = openmetrics.generate_latest(registry).decode()
    shown = [line for line in text.splitlines() if f'# {{trace_id="{"ab" * 16}"}}' in line]
    assert {line.partition("_bucket")[0] for line in shown} == {
        "imagegen_request_duration_seconds",
        "imagegen_stage_duration_seconds",
        "imagegen_queue_wait_seconds",
        "imagegen_time_to_first_progress_seconds",
    }
    assert any('le="2.0",model="shapes",outcome="ok"' in line and line.split()[4] == "1.5" for line in shown)
    assert any('outcome="rejected"' in line for line in shown)
    assert "trace_id" not in exposition.generate_latest(registry).decode()


def test_a_listener_of_calls_that_fails_harms_nobody(metrics: telemetry.Metrics, value: Value) -> None:
    """The fan-out reports it and goes on."""

    class Broken(telemetry.RpcMetrics):
        def started(self, method: Any, metadata: Any) -> None:
            raise KeyError("broken")

    heard: list[tuple[str, Exception]] = []
    listeners = (Broken(metrics), telemetry.RpcMetrics(metrics))
    fan = telemetry.fan_out(telemetry.RpcEvents, listeners, lambda *each: heard.append(each))
    fan.started(GENERATE, ())
    fan.msg_received(GENERATE)
    fan.handled(GENERATE, grpc.StatusCode.OK, 0.1)
    assert [(event, type(error)) for event, error in heard] == [("started", KeyError)]
    assert value("grpc_server_started_total", **_labels(GENERATE)) == 1
    assert value("grpc_server_msg_received_total", **_labels(GENERATE)) == 2


def _labels(method: core.RpcMethod) -> dict[str, str]:
    return {"grpc_type": method.type, "grpc_service": method.service, "grpc_method": method.method}


def _raise(event: str, error: Exception) -> None:
    raise AssertionError(event) from error


@pytest.fixture
def _sdk_loggers() -> Iterator[None]:
    """Gives the SDK's loggers back."""
    names = ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal")
    yield
    for name in names:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


@pytest.mark.usefixtures("_sdk_loggers")
@pytest.mark.parametrize(
    ("variable", "text"), [("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "99999")]
)
def test_wrong_variables_of_the_sdk_stop_the_start(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    """What the SDK cannot read is a StartupError that names the kind of variable."""
    monkeypatch.setenv(variable, text)
    with pytest.raises(errors.StartupError, match=r"OTEL_\* variables"):
        open_export(endpoint=None, sample_ratio=None, version="1", warn=lambda event, **fields: None)
