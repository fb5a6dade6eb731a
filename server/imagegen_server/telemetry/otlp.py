"""Sends spans to an OpenTelemetry collector, on a thread of its own. Needs the extra `otel`.

Nothing here holds up a generation: a span that ends is put into a queue of bounded length, and is lost if that is
full or if the collector cannot be had. The SDK would log each failure; here an outage is one line, with the number of
spans lost in another when it is over or the server ends.

The SDK reads its own variables where nothing is given here: OTEL_EXPORTER_OTLP_* for the connection, OTEL_BSP_* for the
queue, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

from imagegen_server.telemetry.logs import Warn
from imagegen_server.telemetry.tracing import Tracing

STOP_SECONDS: Final = 2.0
"""How long the last spans may take; what is not delivered then is given up."""
_ABORT_SECONDS: Final = 1.0
"""How long the export that was given up may take to notice."""


class OtlpExport:
    """A tracer's way to the collector."""

    def __init__(self, *, endpoint: str | None, sample_ratio: float | None, version: str, warn: Warn) -> None:
        """Begins; see `export.open_export`. Raises ValueError or OSError for wrong values in the SDK's variables."""
        self._reason = _LastWords()
        _divert("opentelemetry.exporter.otlp", self._reason)
        _divert("opentelemetry.sdk._shared_internal", logging.NullHandler())  # of a full queue, span by span
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._delivery = _Delivery(self._exporter, self._reason, warn)
        self._provider = TracerProvider(
            sampler=_sampler(sample_ratio), resource=_resource(version), shutdown_on_exit=False
        )
        self._provider.add_span_processor(_Counted(self._delivery))
        self.listener = Tracing(self._provider.get_tracer("imagegen_server", version))
        """What makes the spans."""

    def stop(self) -> None:
        """Delivers what it can within STOP_SECONDS, and ends. Called once, when nothing makes spans any more."""
        ending = threading.Thread(target=self._provider.shutdown, name="otlp-stop", daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)
        if ending.is_alive():
            self._reason.setLevel(logging.CRITICAL)  # what follows is our own doing
            self._exporter.shutdown()  # ends its wait for the collector; batches that are left fail at once
            ending.join(_ABORT_SECONDS)
        self._delivery.report_lost()


class _LastWords(logging.Handler):
    """Keeps the last thing that a logger said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Remembers a line."""
        self.text = record.getMessage()


class _Delivery(SpanExporter):
    """Hands spans to the exporter, and reports an outage once."""

    def __init__(self, exporter: SpanExporter, reason: _LastWords, warn: Warn) -> None:
        self._exporter = exporter
        self._reason = reason
        self._warn = warn
        self._lock = threading.Lock()
        self._outage = False
        self._pending = 0
        """Spans that ended and were neither delivered nor reported as lost."""

    def ended(self) -> None:
        """Counts a span that is to be delivered."""
        with self._lock:
            self._pending += 1

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Delivers spans; blocks, on the thread of the queue."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            with self._lock:
                self._pending -= len(spans)
            self._outage = False
        elif not self._outage:
            self._outage = True
            self._warn("spans are not delivered", reason=self._reason.text)
        return result

    def report_lost(self) -> None:
        """Reports how many spans were never delivered, if any."""
        with self._lock:
            lost = self._pending
        if lost:
            self._warn("spans were lost", spans=lost, reason=self._reason.text)

    def shutdown(self) -> None:
        """Closes the connection."""
        self._exporter.shutdown()


class _Counted(BatchSpanProcessor):
    """The SDK's queue, with a count of what is put into it."""

    def __init__(self, delivery: _Delivery) -> None:
        super().__init__(delivery)
        self._delivery = delivery

    def on_end(self, span: ReadableSpan) -> None:
        """Counts a sampled span and queues it; the oldest one gives way if the queue is full."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._delivery.ended()
        super().on_end(span)


def _divert(name: str, handler: logging.Handler) -> None:
    """Gives a logger of the SDK to one handler alone."""
    logger = logging.getLogger(name)
    logger.handlers[:] = [handler]
    logger.propagate = False


def _sampler(ratio: float | None) -> Sampler | None:
    """Returns a sampler that keeps a part of the traces begun here, and of others what their callers decided."""
    return None if ratio is None else ParentBased(TraceIdRatioBased(ratio))


def _resource(version: str) -> Resource:
    """Describes this process; the SDK's variables win."""
    resource = Resource.create({SERVICE_VERSION: version})
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "imagegen"}))
    return resource
