"""Every call is counted once, with the code it really had."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import served_methods
from imagegen_server.api.interceptors import Metrics
from imagegen_server.core import RpcMethod
from support.edge import Edge, Recorder, drained, refusal
from support.scripted_engine import accepted, finished, image_ready
from support.waiting import until

REQUEST = pb.GenerateImageRequest(prompt="a cat")
GENERATE = RpcMethod(type="server_stream", service="imagegen.v1.ImageGen", method="GenerateImage")


def only_code(edge: Edge) -> grpc.StatusCode:
    """Returns the code of the only call."""
    ((method, code),) = edge.seen.codes
    assert method == GENERATE
    return code


async def test_messages_of_a_stream_are_counted(edge: Edge) -> None:
    """One message received, each one sent counted, one OK."""
    edge.engine.script = (accepted(), image_ready(b"x"), finished())
    messages = await drained(edge.stub.GenerateImage(REQUEST))
    await edge.settled()
    assert only_code(edge) is grpc.StatusCode.OK
    assert (edge.seen.count("received"), edge.seen.count("sent")) == (1, len(messages)) == (1, 4)


async def test_unary_calls_are_counted(edge: Edge) -> None:
    """A unary call has one message each way."""
    await edge.stub.ListModels(pb.ListModelsRequest())
    await edge.settled()
    assert edge.seen.codes == [
        (RpcMethod(type="unary", service="imagegen.v1.ImageGen", method="ListModels"), grpc.StatusCode.OK)
    ]
    assert (edge.seen.count("received"), edge.seen.count("sent")) == (1, 1)


async def test_a_unary_answer_that_is_written_is_counted_as_unary(edge: Edge) -> None:
    """By what the contract says of the method, once its message is sent."""
    await edge.stub.RenderImage(pb.RenderImageRequest(generation=REQUEST))
    await edge.settled()
    assert edge.seen.codes == [
        (RpcMethod(type="unary", service="imagegen.v1.ImageGen", method="RenderImage"), grpc.StatusCode.OK)
    ]
    assert (edge.seen.count("received"), edge.seen.count("sent")) == (1, 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.QueueFull(1, 1.0), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Cancelled("by id"), grpc.StatusCode.CANCELLED),
        (RuntimeError("bug"), grpc.StatusCode.INTERNAL),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_aborted_calls_have_their_code(edge: Edge, error: Exception, code: grpc.StatusCode, late: bool) -> None:
    """Refusals and failures are counted with the status that was sent."""
    if late:
        edge.engine.script = (accepted(), finished(error))
    else:
        edge.engine.raises = error
    await refusal(drained(edge.stub.GenerateImage(REQUEST)))
    await edge.settled()
    assert only_code(edge) is code
    assert edge.seen.count("sent") == int(late)


async def test_cancelled_call(edge: Edge) -> None:
    """A call that its caller cancels counts as CANCELLED, once."""
    edge.engine.script = (accepted(), 1e6)
    call = edge.stub.GenerateImage(REQUEST)
    await call.read()
    call.cancel()
    await edge.settled()
    assert only_code(edge) is grpc.StatusCode.CANCELLED


async def test_passed_deadline(edge: Edge) -> None:
    """A call whose deadline passes counts as DEADLINE_EXCEEDED, once."""
    edge.engine.script = (accepted(), 1e6)
    await refusal(drained(edge.stub.GenerateImage(REQUEST, timeout=0.2)))
    await edge.settled()
    assert only_code(edge) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_that_is_cut_short_while_its_status_waits_has_that_code() -> None:
    """Not that of the end of its connection, which came after."""

    async def refused(request: Any, context: Any) -> None:
        raise asyncio.CancelledError

    async def served(details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(refused)

    seen, path = Recorder(), "/imagegen.v1.ImageGen/GenerateImage"
    details: Any = SimpleNamespace(method=path, invocation_metadata=())
    context = SimpleNamespace(time_remaining=lambda: None, code=lambda: grpc.StatusCode.RESOURCE_EXHAUSTED)
    handler: Any = await Metrics(seen, [GENERATE]).intercept_service(served, details)
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_stream(REQUEST, context)
    assert seen.codes == [(GENERATE, grpc.StatusCode.RESOURCE_EXHAUSTED)]


async def test_health_and_reflection_are_counted(edge: Edge) -> None:
    """The standard services are calls like any other, streams of both directions included."""
    await health_pb2_grpc.HealthStub(edge.channel).Check(health_pb2.HealthCheckRequest())
    stub = reflection_pb2_grpc.ServerReflectionStub(edge.channel)
    wanted = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = await drained(stub.ServerReflectionInfo(iter((wanted, wanted))))
    assert len(answers) == 2
    await edge.settled()
    assert {(method.type, method.method, code) for method, code in edge.seen.codes} == {
        ("unary", "Check", grpc.StatusCode.OK),
        ("bidi_stream", "ServerReflectionInfo", grpc.StatusCode.OK),
    }
    assert (edge.seen.count("received"), edge.seen.count("sent")) == (3, 3)


async def test_open_watch_is_in_flight_until_it_is_cancelled(edge: Edge) -> None:
    """A call that is still open was started and not handled."""
    watch = health_pb2_grpc.HealthStub(edge.channel).Watch(health_pb2.HealthCheckRequest())
    await watch.read()
    assert (edge.seen.count("started"), edge.seen.codes) == (1, [])
    watch.cancel()
    await edge.settled()
    assert edge.seen.codes[0][1] is grpc.StatusCode.CANCELLED


async def test_started_equals_handled_after_a_storm(edge: Edge) -> None:
    """Two hundred calls that end in every way leave nothing in flight, and only methods that exist."""
    edge.engine.script = (accepted(), 0.02, image_ready(b"x" * 300_000), finished())

    async def one(number: int) -> None:
        kind = number % 5
        call: Any
        if kind == 0:
            call = edge.channel.unary_unary(f"/caller/minted{number}", None, None)(b"")
        elif kind == 1:
            call = edge.stub.GenerateImage(pb.GenerateImageRequest())
        else:
            call = edge.stub.GenerateImage(REQUEST, timeout=0.03 if kind == 2 else None)
        try:
            if kind == 3:
                await call.read()
                call.cancel()
            await (call if kind == 0 else drained(call))
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.CancelledError):
            pass  # how each ends is not the point here

    await asyncio.gather(*(one(number) for number in range(200)))
    await edge.settled()
    await until(lambda: all(ticket.closed for ticket in edge.engine.tickets))
    known = {(method.service, method.method) for method in served_methods()} | {("_OTHER", "_OTHER")}
    assert {(method.service, method.method) for method, _ in edge.seen.codes} <= known
    assert edge.seen.bugs == []
