"""Both clients under OpenTelemetry's own instrumentation of gRPC, which wraps the channels that they make."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from imagegen import AsyncClient, Client, errors, types
from support.scripted_service import WAIT, Endless, ScriptedService, error_info, refuse


@functools.cache
def _spans() -> InMemorySpanExporter:
    """Returns where the process's spans go; the instrumentation of synchronous calls has no other place."""
    memory, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    return memory


@pytest.fixture
def memory() -> Iterator[InMemorySpanExporter]:
    """Switches the instrumentation on; what it sees is here."""
    memory = _spans()
    memory.clear()
    instrumentors = (GrpcInstrumentorClient(), GrpcAioInstrumentorClient())
    for each in instrumentors:
        each.instrument()
    yield memory
    for each in instrumentors:
        each.uninstrument()


def _only(memory: InMemorySpanExporter) -> ReadableSpan:
    (span,) = memory.get_finished_spans()
    return span


def _parent(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def test_the_clients_span_is_the_parent(service: ScriptedService, memory: InMemorySpanExporter) -> None:
    """The image arrives as ever, beside the client's own metadata, and the server learns of the client's span."""
    with Client(service.target, metadata=[("authorization", "Bearer token")]) as client:
        assert client.generate_image("a").data
    (sent,) = service.metadata
    assert (sent["authorization"], sent["traceparent"]) == ("Bearer token", _parent(_only(memory)))


async def test_the_asyncio_clients_span_is_the_parent(service: ScriptedService, memory: InMemorySpanExporter) -> None:
    """The same with asyncio."""
    async with AsyncClient(service.target) as client:
        assert (await client.generate_image("a")).data
    assert [sent["traceparent"] for sent in service.metadata] == [_parent(_only(memory))]


def test_leaving_early_still_stops_the_server(service: ScriptedService, memory: InMemorySpanExporter) -> None:
    """The instrumentation puts a generator in place of the call: closing ours cancels the call all the same."""
    script = Endless()
    service.script = script
    with Client(service.target) as client:
        events = client.generate("a")
        assert isinstance(next(events), types.Accepted)
        events.close()
        assert script.ended.wait(WAIT)


def test_errors_are_still_the_clients(service: ScriptedService, memory: InMemorySpanExporter) -> None:
    """A refusal is the client's own error, with its details."""
    service.script = lambda _, context: refuse(
        context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", error_info("QUEUE_FULL"), pushback=-1
    )
    with Client(service.target) as client, pytest.raises(errors.QueueFullError):
        client.generate_image("a")
    assert not _only(memory).status.is_ok
