"""Bytes from strangers: every call is refused with a proper status and the server goes on."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.api import ServerTls, served_methods
from imagegen_server.api.interceptors import Guard
from support import wire
from support.certificates import tls_channel, write
from support.edge import Edge, Recorder, drained, own_channel, refusal, rich_status, running_edge
from support.waiting import until

GENERATE = "/imagegen.v1.ImageGen/GenerateImage"
GARBAGE = (b"\xff\xff\xff", b"\x0a\xff\x01", b"\x00", b"\x07" * 40, b"\x0a\x05abc")
"""Truncated fields, an invalid tag and an invalid wire type: malformed as any message."""


def bytes_in_bytes_out(channel: grpc.aio.Channel, path: str, streams_in: bool, streams_out: bool) -> Any:
    """Returns a multi-callable that sends and returns raw bytes."""
    kind = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[streams_in, streams_out]
    return kind(path, None, None)


async def code_of(channel: grpc.aio.Channel, path: str, kind: str, raw: bytes) -> grpc.StatusCode:
    """Returns how a call with one raw message ends."""
    streams_in, streams_out = kind in ("client_stream", "bidi_stream"), kind in ("server_stream", "bidi_stream")
    call = bytes_in_bytes_out(channel, path, streams_in, streams_out)(iter((raw,)) if streams_in else raw, timeout=20)
    try:
        if streams_out:
            await drained(call)
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", served_methods(), ids=lambda method: f"{method.service}/{method.method}")
@pytest.mark.parametrize("raw", GARBAGE, ids=repr)
async def test_garbage_is_invalid_for_every_method(edge: Edge, method: Any, raw: bytes) -> None:
    """A message that cannot be parsed is the caller's mistake, in every service."""
    code = await code_of(edge.channel, f"/{method.service}/{method.method}", method.type, raw)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_invalid_utf8_is_invalid(edge: Edge) -> None:
    """A prompt that is not UTF-8 is the caller's mistake."""
    code = await code_of(edge.channel, GENERATE, "server_stream", b"\x1a\x02\xc3\x28")
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def refused_listing(servicer: Any) -> tuple[grpc.aio.AioRpcError, Recorder]:
    """Serves a library's service, asks it for the models, and returns the refusal, and what was told of it."""
    seen = Recorder()
    server = grpc.aio.server(interceptors=(Guard(seen),))
    pb_grpc.add_ImageGenServicer_to_server(servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with own_channel(port) as stub:
        error = await refusal(stub.ListModels(pb.ListModelsRequest()))
    await server.stop(None)
    return error, seen


async def test_method_that_a_servicer_leaves_out_has_details() -> None:
    """A method of the contract without an implementation, as a library's service may have one, is told to be that."""
    error, seen = await refused_listing(pb_grpc.ImageGenServicer)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert rich_status(error)[1]["ErrorInfo"].reason == "NOT_SERVED_YET"
    assert seen.bugs == []


async def test_a_bug_of_any_service_has_a_status() -> None:
    """INTERNAL, without a word of what it was, and one report for the log."""
    bug = KeyError("/srv/secret.py")

    class Broken(pb_grpc.ImageGenServicer):
        async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> Any:  # noqa: N802 # the contract's
            raise bug

    error, seen = await refused_listing(Broken)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in repr(error)
    request_id = rich_status(error)[1]["RequestInfo"].request_id
    assert seen.bugs == [("/imagegen.v1.ImageGen/ListModels", request_id, bug)]


async def test_garbage_has_details(edge: Edge) -> None:
    """The refusal of unparsable bytes carries the details that every error has."""
    call = bytes_in_bytes_out(edge.channel, GENERATE, False, True)(b"\xff\xff\xff")
    error = await refusal(drained(call))
    _, details = rich_status(error)
    assert details["ErrorInfo"].reason == "INVALID_REQUEST"
    assert len(details["BadRequest"].field_violations) == 1
    assert details["RequestInfo"].request_id
    assert edge.engine.requests == []


async def test_random_bytes_never_make_internal_errors(edge: Edge) -> None:
    """A thousand random and damaged messages end INVALID_ARGUMENT, or are valid by chance; the server lives."""
    chance = random.Random(20_240_501)  # repeatable, not secret
    valid = pb.GenerateImageRequest(prompt="a cat", seed=7, refiner=pb.RefinerOptions(strength=0.5)).SerializeToString()
    seen = set()
    for _ in range(20):
        raws = [chance.randbytes(chance.randrange(1, 80)) for _ in range(25)]
        for _ in range(25):
            damaged = bytearray(valid)
            for _ in range(chance.randrange(1, 5)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            raws.append(bytes(damaged))
        seen |= set(await asyncio.gather(*(code_of(edge.channel, GENERATE, "server_stream", raw) for raw in raws)))
    assert seen <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OK}
    assert grpc.StatusCode.INVALID_ARGUMENT in seen
    await edge.settled()
    assert edge.seen.bugs == []
    assert len(await drained(edge.stub.GenerateImage(pb.GenerateImageRequest(prompt="x")))) == 2


async def test_oversized_message_is_refused_by_the_transport() -> None:
    """A message above the limit never reaches the parser."""
    async with running_edge(max_receive_bytes=10_000) as edge:
        code = await code_of(edge.channel, GENERATE, "server_stream", b"\x1a" + b"x" * 20_000)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert edge.seen.bugs == []


@pytest.mark.parametrize("path", ["/nope/Nope", "/imagegen.v1.ImageGen/Nope", "/x", "/imagegen.v1.ImageGen/"])
async def test_unknown_methods_are_unimplemented(edge: Edge, path: str) -> None:
    """A method that is not served has ErrorInfo like every error, and counts as _OTHER."""
    error = await refusal(edge.channel.unary_unary(path, None, None)(b"\xff"))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert rich_status(error)[1]["ErrorInfo"].reason == "METHOD_NOT_FOUND"
    await edge.settled()
    assert {(method.service, method.method) for method, _ in edge.seen.codes} == {("_OTHER", "_OTHER")}


async def test_refusal_is_trailers_only(edge: Edge) -> None:
    """A refusal is a single HEADERS frame that ends the stream, so that clients may retry it."""
    frames = await wire.call(edge.port, GENERATE.encode(), pb.GenerateImageRequest().SerializeToString())
    assert [frame.type for frame in frames] == [wire.HEADERS]
    assert frames[0].flags & wire.END_STREAM
    assert b"x-request-id" in frames[0].payload


async def test_success_has_headers_messages_and_trailers(edge: Edge) -> None:
    """The same hand-written call, valid, is answered with the request id first."""
    frames = await wire.call(edge.port, GENERATE.encode(), pb.GenerateImageRequest(prompt="x").SerializeToString())
    assert [frame.type for frame in frames] == [wire.HEADERS, wire.DATA, wire.DATA, wire.HEADERS]
    assert b"x-request-id" in frames[0].payload


async def test_paths_that_are_not_text_do_not_close_the_port(edge: Edge) -> None:
    """Calls with a path that is not UTF-8 neither end the calls that run nor keep new ones out."""
    finished = edge.engine.script[-1]
    edge.engine.script = (*edge.engine.script[:-1], 1.0, finished)
    running = asyncio.ensure_future(drained(edge.stub.GenerateImage(pb.GenerateImageRequest(prompt="x"))))
    await until(lambda: bool(edge.engine.tickets))
    for _ in range(10):
        assert await wire.call(edge.port, b"/\xff\xfe/x", b"")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert len(await running) == 2
    assert edge.seen.bugs == []


async def test_nor_do_they_close_a_port_with_tls(tmp_path: Path) -> None:
    """The handshake is over before a path is read."""
    authority = trustme.CA()
    certificate, key = write(authority.issue_cert("localhost"), tmp_path)
    trust = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    trust.set_alpn_protocols(["h2"])
    async with running_edge(tls=ServerTls(certificate, key)) as edge:
        for _ in range(3):
            assert await wire.call(edge.port, b"/\xff\xfe/x", b"", trust)
            async with tls_channel(edge.port, authority) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert edge.seen.bugs == []
