"""What metrics and tracing cost: the time that the observers of a request take, as a part of the request's own time."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from bench.disturbance import Meter
from bench.loads import Paired
from bench.rows import Row, row
from imagegen_server import models, telemetry
from imagegen_server.core import EngineObserver, RpcMethod
from imagegen_server.engine import Engine, Finished, ImageReady, Ticket
from imagegen_server.telemetry.tracing import Tracing
from support.engines import engine_of

STEPS: Final = (20, 10)
"""Base and refiner steps."""
SIDES: Final = (64, 128)
"""Pixels. The smaller the image, the shorter its steps and the greater the observers' part."""
_IDLE_SECONDS: Final = 2e-4
"""How long to wait for the encoder's thread when the device has nothing to do."""
_METHOD: Final = RpcMethod(type="server_stream", service="imagegen.v1.ImageGen", method="GenerateImage")


class Observers:
    """Metrics and tracing as the server has them, with a clock around every event."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        """Seconds of each event since it was last cleared; appended to from several threads."""
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(_Encoding()))
        tracing = Tracing(provider.get_tracer("bench"))
        methods = [(_METHOD.type, _METHOD.service, _METHOD.method)]
        metrics = telemetry.Metrics(CollectorRegistry(), models=["shapes"], methods=methods)
        observer = telemetry.MetricsObserver(metrics, "shapes", tracing)
        calls = telemetry.RpcMetrics(metrics)
        self.engine: Any = _Timed(telemetry.fan_out(EngineObserver, (observer, tracing), _failed), self.taken)
        self.calls: Any = _Timed(telemetry.fan_out(telemetry.RpcEvents, (tracing, calls), _failed), self.taken)
        self.close = provider.shutdown


class _Encoding(SpanExporter):
    """Writes spans as OTLP messages and drops them: on the queue's thread, beside the requests, as in the server."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


class _Timed:
    """Passes every event on, and notes how long that took."""

    def __init__(self, observer: object, taken: list[float]) -> None:
        self._observer = observer
        self._taken = taken

    def __getattr__(self, event: str) -> Callable[..., None]:
        tell = getattr(self._observer, event)

        def timed(*told: Any) -> None:
            began = time.perf_counter()
            tell(*told)
            self._taken.append(time.perf_counter() - began)

        return timed


def measure(samples: int, sides: Sequence[int] = SIDES) -> list[Row]:
    """Returns a row for each side: the observers' share of requests that run alone, one after the other."""
    observers = Observers()
    runner = models.load_runner("shapes", models.ModelOptions(device="cpu"))
    engine = engine_of(runner, observers.engine)
    rows = [_row(engine, observers, samples, side) for side in sides]
    runner.close()
    observers.close()
    return rows


def _row(engine: Engine, observers: Observers, samples: int, side: int) -> Row:
    """Measures both times of each request in that request, so that nothing has to be paired."""
    _request(engine, observers, side, 0)  # warm-up
    shares, wholes, disturbed = [], [], []
    for number in range(samples):
        observers.taken.clear()
        watch = Meter(())
        wholes.append(_request(engine, observers, side, number))
        disturbed.append(watch.others())
        shares.append(sum(observers.taken))
    return row(
        f"metrics and tracing of one request, {side // 8}x{side // 8} latents",
        what="time",
        arms="observers/request",
        samples=Paired(first=shares, second=wholes, others=max(disturbed)),
        unit="ms",
        scale=1e3,
        goal="≤ 0.01",
    )


def _request(engine: Engine, observers: Observers, side: int, number: int) -> float:
    """Runs a request in a context of its own, as a call has one; returns its seconds."""
    return contextvars.copy_context().run(_call, engine, observers, side, number)


def _call(engine: Engine, observers: Observers, side: int, number: int) -> float:
    from support.pairs import image_to_image, request

    began = time.perf_counter()
    observers.calls.started(_METHOD, (("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),))
    observers.calls.msg_received(_METHOD)
    asked = request(
        request_id=f"bench-{number}",
        model="shapes",
        width=side,
        height=side,
        num_inference_steps=STEPS[0],
        refiner=image_to_image(num_inference_steps=STEPS[1], strength=0.3, guidance_scale=8.0),
        seed=number,
    )
    ticket = engine.submit(asked, fingerprint=b"", deadline=None, on_ready=lambda: None)
    while not _written(ticket, observers):
        if not engine.turn():
            time.sleep(_IDLE_SECONDS)
    ticket.close()
    observers.calls.handled(_METHOD, grpc.StatusCode.OK, time.perf_counter() - began)
    return time.perf_counter() - began


def _written(ticket: Ticket, observers: Observers) -> bool:
    """Takes what there is to send, a message each; returns whether that was the last. Raises what went wrong."""
    for numbered in ticket.take():
        observers.calls.msg_sent(_METHOD)
        if isinstance(numbered.event, ImageReady):
            with ticket.sending(numbered.event.image_index):
                observers.calls.msg_sent(_METHOD)  # a header and one chunk
        if isinstance(numbered.event, Finished):
            if numbered.event.error is not None:
                raise numbered.event.error
            return True
    return False


def _failed(event: str, error: Exception) -> None:
    raise RuntimeError(f"a listener failed at {event}") from error
