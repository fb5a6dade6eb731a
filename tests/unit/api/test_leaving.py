"""Callers that leave, are late, or do not read: their generation is released and they get a status."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import StreamSettings, convert
from imagegen_server.api.generations import send_request_id
from imagegen_server.api.readers import ANSWER
from imagegen_server.api.stream import PART, GenerationStream, Patient, Wake, Writer
from imagegen_server.core import RejectReason, Stage
from support import wire
from support.edge import (
    Edge,
    Recorder,
    drained,
    own_channel,
    read_on,
    reassembled,
    refusal,
    rich_status,
    running_edge,
)
from support.load import NARROW
from support.scripted_engine import PROFILE, ScriptedTicket, accepted, finished, image_ready
from support.waiting import until

REQUEST = pb.GenerateImageRequest(prompt="a cat", seed=3)


async def test_deadline_reaches_the_engine(edge: Edge) -> None:
    """The engine gets the caller's deadline on its own clock, or none."""
    before = time.monotonic()
    await drained(edge.stub.GenerateImage(REQUEST, timeout=100))
    await drained(edge.stub.GenerateImage(REQUEST))
    first, second = edge.engine.submissions
    assert before + 90 < first["deadline"] < time.monotonic() + 102
    assert second["deadline"] is None
    assert len(first["fingerprint"]) == 32
    assert first["fingerprint"] == second["fingerprint"]


async def test_cancelled_call_releases_the_generation(edge: Edge) -> None:
    """A caller that cancels its call stops its generation."""
    edge.engine.script = (accepted(), 1e6, finished())
    call = edge.stub.GenerateImage(REQUEST)
    await call.read()
    call.cancel()
    await edge.settled()
    assert [type(error) for error in edge.engine.tickets[0].closed] == [errors.Cancelled]


async def test_closed_connection_releases_the_generation(edge: Edge) -> None:
    """A caller that vanishes stops its generation."""
    edge.engine.script = (accepted(), 1e6, finished())
    await edge.stub.GenerateImage(REQUEST).read()
    await edge.channel.close(None)
    await edge.settled()
    assert [type(error) for error in edge.engine.tickets[0].closed] == [errors.Cancelled]


async def test_vanished_peer_releases_the_generation(edge: Edge) -> None:
    """A connection that breaks without a word of HTTP/2 stops its generation."""
    edge.engine.script = (accepted(), 1e6, finished())
    _, writer = await wire.begin(edge.port, b"/imagegen.v1.ImageGen/GenerateImage", REQUEST.SerializeToString())
    await until(lambda: bool(edge.engine.tickets))
    writer.transport.abort()
    await edge.settled()
    assert [type(error) for error in edge.engine.tickets[0].closed] == [errors.Cancelled]


async def test_silent_network_releases_the_generation() -> None:
    """A connection that is open and answers no probe is given up after the two times, not after a minute."""
    async with running_edge(keepalive_time=0.5, keepalive_timeout=0.5) as edge:
        edge.engine.script = (accepted(), 1e6, finished())
        request = REQUEST.SerializeToString()
        _, writer = await wire.begin(edge.port, b"/imagegen.v1.ImageGen/GenerateImage", request)
        await until(lambda: bool(edge.engine.tickets))
        async with asyncio.timeout(30):  # gRPC's own limit is a minute
            await edge.settled()
        assert [type(error) for error in edge.engine.tickets[0].closed] == [errors.Cancelled]
        writer.close()


async def test_passed_deadline_releases_the_generation(edge: Edge) -> None:
    """A deadline that passes is told from a cancelled call."""
    edge.engine.script = (accepted(), 1e6, finished())
    error = await refusal(drained(edge.stub.GenerateImage(REQUEST, timeout=0.3)))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await edge.settled()
    assert [type(closed) for closed in edge.engine.tickets[0].closed] == [errors.DeadlineExceeded]


async def test_reader_that_stops_reading_loses_its_generation() -> None:
    """A write that makes no progress for send_timeout ends the generation; the status waits for the reader."""
    async with running_edge(stream=StreamSettings(send_timeout=0.3)) as edge:
        edge.engine.script = (accepted(), image_ready(b"x" * 20_000_000), finished())
        async with own_channel(edge.port, *NARROW) as stub:
            call = stub.GenerateImage(REQUEST)
            await call.read()
            await edge.settled()
            (closed,) = edge.engine.tickets[0].closed
            assert isinstance(closed, errors.DeadlineExceeded)
            assert closed.stage is Stage.SEND
            error = await refusal(read_on(call))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert rich_status(error)[1]["ErrorInfo"].metadata["stage"] == "send"


RENDER = pb.RenderImageRequest(generation=REQUEST, include_image_data=True)


async def deaf(edge: Edge) -> asyncio.StreamWriter:
    """Makes a RenderImage call that reads nothing, until it is given up; returns its connection."""
    before = len(edge.engine.tickets)
    path = b"/imagegen.v1.ImageGen/RenderImage"
    _, writer = await wire.begin(edge.port, path, RENDER.SerializeToString())
    await until(lambda: len(edge.engine.tickets) > before and bool(edge.engine.tickets[-1].closed))
    return writer


async def test_an_answer_that_nobody_reads_ends_its_generation() -> None:
    """The one answer of RenderImage is sent within its generation: unread, that ends as a stream's does."""
    async with running_edge(stream=StreamSettings(send_timeout=0.2)) as edge:
        edge.engine.script = (accepted(), image_ready(b"x" * 5_000_000), finished())
        writer = await deaf(edge)
        (ticket,) = edge.engine.tickets
        (closed,) = ticket.closed
        assert isinstance(closed, errors.DeadlineExceeded)
        assert (closed.stage, ticket.completed, ticket.sent) == (Stage.SEND, False, [])
        await edge.settled()
        assert [code for _, code in edge.seen.codes] == [grpc.StatusCode.DEADLINE_EXCEEDED]
        assert edge.seen.count("sent") == 0
        writer.close()


async def test_a_large_answer_has_time_by_its_size() -> None:
    """Each 4 MiB of it have send_timeout; the generation is not over while it is read slowly, and completes."""
    async with running_edge(stream=StreamSettings(send_timeout=1.0)) as edge:
        data = b"0123456789" * 2_000_000
        edge.engine.script = (accepted(), image_ready(data), finished())
        path = b"/imagegen.v1.ImageGen/RenderImage"
        reader, writer = await wire.begin(edge.port, path, RENDER.SerializeToString())
        await until(lambda: bool(edge.engine.tickets))
        await asyncio.sleep(1.5)
        assert edge.engine.tickets[0].closed == []
        wire.widen(writer, 2 * len(data))
        frames = await wire.rest(reader, writer)
        body = b"".join(frame.payload for frame in frames if frame.type == wire.DATA)
        assert pb.RenderImageResponse.FromString(body[5:]).images[0].data == data
        await edge.settled()
        assert (edge.engine.tickets[0].closed, edge.engine.tickets[0].sent) == ([None], [0])


async def test_answers_left_unread_are_bounded() -> None:
    """gRPC holds what a caller does not read until its connection is gone; until then it gets nothing more to hold."""
    async with running_edge(stream=StreamSettings(send_timeout=0.2), max_readers=2 * ANSWER) as edge:
        edge.engine.script = (accepted(), image_ready(b"x" * 5_000_000), finished())
        writers = [await deaf(edge) for _ in range(2)]

        async def refused() -> bool:
            error = await refusal(drained(edge.stub.GenerateImage(REQUEST)))
            details = rich_status(error)[1]
            assert (error.code(), details["ErrorInfo"].reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READERS")
            assert details["RetryInfo"].retry_delay.seconds > 0
            return True

        edge.engine.script = (accepted(), finished())
        await edge.settled()
        assert await refused()
        assert edge.seen.rejections == [RejectReason.QUOTA]
        writers[0].transport.abort()
        async with asyncio.timeout(30):
            while True:
                try:
                    await drained(edge.stub.GenerateImage(REQUEST))
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
        writers[1].close()


async def test_headers_that_are_being_sent_are_sent_before_a_status() -> None:
    """A deadline that passes meanwhile has its status: gRPC would send the headers again, and then nothing."""

    async def handler(_request: bytes, context: Any) -> None:
        sending = asyncio.create_task(send_request_id(context, "mine"))
        for _ in range(2):  # until gRPC has begun
            await asyncio.sleep(0)
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the server's own status")

    server = grpc.aio.server()
    handlers = {"Method": grpc.unary_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_stream
        call = method("/Service/Method")(b"", timeout=5)
        error = await refusal(drained(call))
    assert error.details() == "the server's own status"
    await server.stop(None)


async def test_slow_reader_gets_everything() -> None:
    """Pauses below send_timeout cost nothing but time."""
    async with running_edge(stream=StreamSettings(send_timeout=60)) as edge:
        data = b"0123456789" * 1_000_000
        edge.engine.script = (accepted(), image_ready(data), finished())
        call = edge.stub.GenerateImage(REQUEST)
        messages = [await call.read()]
        await asyncio.sleep(0.2)
        messages += await read_on(call)
        assert reassembled(messages) == {0: data}
        assert messages[-1].WhichOneof("event") == "completed"


class HeldUp:
    """A transport that takes its first message late, and remembers what it took."""

    def __init__(self, seconds: float) -> None:
        self.written: list[Any] = []
        self._seconds = seconds

    async def write(self, message: Any) -> None:
        """Takes a message."""
        await asyncio.sleep(0 if self.written else self._seconds)
        self.written.append(message)


def stream_to(writer: Writer, answer: Writer | None = None) -> GenerationStream:
    """Returns what writes a generation to a transport."""
    request = convert.to_generation(REQUEST, request_id="id", loaded=PROFILE, profiles=(PROFILE,), plan=lambda _: None)
    return GenerationStream(writer, request, 1000, answer)


async def test_stalled_writes_are_reported() -> None:
    """A write that the transport holds up for longer than `stall` is observed with its duration."""
    seen, writer = Recorder(), HeldUp(0.05)
    await stream_to(Patient(writer, StreamSettings(stall=0.02), seen)).write_plan(accepted())
    assert len(writer.written) == 1
    assert len(seen.stalls) == 1
    assert seen.stalls[0] >= 0.04


async def test_a_message_has_time_by_its_size() -> None:
    """Each 4 MiB have send_timeout: what is late for one is not for a hundred."""
    settings = StreamSettings(send_timeout=0.05)
    with pytest.raises(errors.DeadlineExceeded, match=r"did not read a message in 0\.05 s"):
        await Patient(HeldUp(60), settings, Recorder()).write(accepted())
    writer = HeldUp(0.1)
    await Patient(writer, settings, Recorder()).write(accepted(), 100 * PART)
    assert len(writer.written) == 1


async def test_an_answer_of_what_was_stopped_is_not_sent() -> None:
    """One that is cancelled when all it lacks is to be sent ends so: nothing is on its way to its caller by then."""
    wake, answer = Wake(), HeldUp(0)
    ticket: Any = ScriptedTicket((accepted(), finished()), wake)
    ticket.stopped = errors.Cancelled("by id")
    with pytest.raises(errors.Cancelled):
        await stream_to(HeldUp(0), answer).run(ticket, wake)
    assert answer.written == []
    assert not ticket.completed


async def test_generation_stopped_while_it_is_sent(edge: Edge) -> None:
    """A generation that is cancelled by id during its last image ends CANCELLED, not completed."""
    edge.engine.script = (accepted(), image_ready(b"x" * 20_000_000), finished())
    async with own_channel(edge.port, *NARROW) as stub:
        call = stub.GenerateImage(REQUEST)
        await call.read()
        await until(lambda: bool(edge.engine.tickets))
        edge.engine.tickets[0].stopped = errors.Cancelled("by id")
        error = await refusal(read_on(call))
    assert error.code() is grpc.StatusCode.CANCELLED


async def test_stray_cancellation_does_not_leave_the_caller_waiting(edge: Edge) -> None:
    """A CancelledError that nobody asked for is a bug with a status, not a hanging call."""
    edge.engine.raises = asyncio.CancelledError()  # type: ignore[assignment] # that is the point
    error = await refusal(drained(edge.stub.GenerateImage(REQUEST, timeout=20)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert len(edge.seen.bugs) == 1
