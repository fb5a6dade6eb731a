"""Callers that leave, are late, or do not read: their generation is released and they get a status."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import StreamSettings, convert
from imagegen_server.api.stream import GenerationStream, Patient
from imagegen_server.core import Stage
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
from support.scripted_engine import PROFILE, accepted, finished, image_ready
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


async def test_stalled_writes_are_reported() -> None:
    """A write that the transport holds up for longer than `stall` is observed with its duration."""

    class HeldUp:
        """A transport without room for its first message."""

        written = 0

        async def write(self, message: pb.GenerateImageResponse) -> None:
            """Takes a message, the first one late."""
            self.written += 1
            await asyncio.sleep(0.05 if self.written == 1 else 0)

    seen, writer = Recorder(), HeldUp()
    request = convert.to_generation(REQUEST, request_id="id", loaded=PROFILE, profiles=(PROFILE,), plan=lambda _: None)
    stream = GenerationStream(Patient(writer, StreamSettings(stall=0.02), seen), request, chunk_bytes=1000)
    await stream.write_plan(accepted())
    assert writer.written == 1
    assert len(seen.stalls) == 1
    assert seen.stalls[0] >= 0.04


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
