"""A real OTLP collector on loopback that remembers the spans it is sent."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.trace.v1 import trace_pb2 as trace


@dataclass(kw_only=True, frozen=True)
class Span:
    """A span as it arrived."""

    name: str
    kind: str
    """INTERNAL, SERVER …"""
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    trace_state: str
    begin: int
    """Nanoseconds since the epoch."""
    end: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    error: bool
    """Whether the status is ERROR; it is never OK here."""
    description: str
    """Of the status."""

    @property
    def image_index(self) -> int | None:
        """The image that a stage's span is of."""
        return self.attributes.get("imagegen.image_index")


@dataclass
class Collector:
    """What arrived. Made by `collector`."""

    port: int
    raw: list[bytes] = field(default_factory=list)
    """Every request, serialized."""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def of(self, trace_id: str) -> list[Span]:
        """Returns the spans of a trace, in the order in which they began."""
        return sorted((span for span in tuple(self.spans) if span.trace_id == trace_id), key=lambda span: span.begin)

    def call(self, trace_id: str) -> Span | None:
        """Returns the span of a trace's call, once it has arrived."""
        return next((span for span in self.of(trace_id) if span.kind == "SERVER"), None)

    def stages(self, trace_id: str) -> list[Span]:
        """Returns the other spans of a trace."""
        return [span for span in self.of(trace_id) if span.kind != "SERVER"]


class _Service(service_grpc.TraceServiceServicer):
    def __init__(self, seen: Collector) -> None:
        self._seen = seen
        self._lock = threading.Lock()

    def Export(  # noqa: N802 - the contract's name
        self, request: service.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> service.ExportTraceServiceResponse:
        with self._lock:
            self._seen.raw.append(request.SerializeToString())
            for group in request.resource_spans:
                self._seen.resources.append(_attributes(group.resource.attributes))
                for scope in group.scope_spans:
                    self._seen.spans.extend(_span(span) for span in scope.spans)
        return service.ExportTraceServiceResponse()


@contextmanager
def collector(port: int = 0) -> Iterator[Collector]:
    """Runs a collector; port 0 takes a free one."""
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    seen = Collector(port=server.add_insecure_port(f"127.0.0.1:{port}"))
    service_grpc.add_TraceServiceServicer_to_server(_Service(seen), server)
    server.start()
    try:
        yield seen
    finally:
        server.stop(None).wait()


def new_parent(*, sampled: bool = True) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Returns a caller's trace id and span id, and the metadata that carries them."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, (("traceparent", f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"),)


def _span(span: trace.Span) -> Span:
    return Span(
        name=span.name,
        kind=trace.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        trace_state=span.trace_state,
        begin=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=[(event.name, _attributes(event.attributes)) for event in span.events],
        error=span.status.code == trace.Status.STATUS_CODE_ERROR,
        description=span.status.message,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: common.AnyValue) -> Any:
    return getattr(value, str(value.WhichOneof("value")))
