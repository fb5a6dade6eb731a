"""Malformed and hostile requests against a real server: each refused with a code that says whose fault it is."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from support import wire
from support.live_server import LiveServer, live_server, open_channel
from support.load import Ended, detail_of, follow, generate, request, size
from support.spoilt import spoilt
from support.waiting import eventually

REQUESTS = size(1000, 10_000)
AT_ONCE = 32
SERVICE = "imagegen.v1.ImageGen"
DATA_LIMIT = 2**20
"""Bytes of a request message that the server takes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the fake model, with a port for probes."""
    with live_server(tmp_path_factory.mktemp("hostile"), "--health-port", "0") as running:
        yield running


async def each(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Runs jobs, `AT_ONCE` at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def run(job: Callable[[], Any]) -> Any:
        async with places:
            return await job()

    return await asyncio.gather(*(run(job) for job in jobs))


def check_healthy(server: LiveServer) -> None:
    """Checks that the server serves, and that nothing of what came before was a bug or is still there."""
    with open_channel(server.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        good = generate(channel, request())
        assert good.ok, (good.code, good.details)
    eventually(server.idle, "something stays in flight")
    assert not server.log("bug")
    samples = server.metrics()
    for code in ("Internal", "Unknown"):
        assert samples.total("grpc_server_handled_total", grpc_code=code) == 0


async def test_every_violation_of_a_bad_request_is_named(server: LiveServer, figures: dict[str, object]) -> None:
    """A request with k wrong fields is refused with INVALID_ARGUMENT that names these k and no other."""
    rng = random.Random(5)
    cases = [spoilt(rng) for _ in range(REQUESTS)]
    before = server.metrics()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)

        async def call(message: pb.GenerateImageRequest) -> Ended:
            return await follow(stub.GenerateImage(message))

        answers: list[Ended] = await each([partial(call, message) for message, _ in cases])
    for ended, (message, paths) in zip(answers, cases, strict=True):
        assert ended.code is grpc.StatusCode.INVALID_ARGUMENT, (ended.code, ended.details, message)
        assert not ended.accepted
        bad = ended.detail(error_details_pb2.BadRequest)
        assert bad is not None
        named = {violation.field for violation in bad.field_violations}
        assert named == paths, (named ^ paths, message)
        assert all(violation.description for violation in bad.field_violations)
        assert ended.reason == "INVALID_REQUEST"
        assert ended.retry_after is None
    after = server.metrics()
    assert after.total("imagegen_rejected_total", reason="invalid") == before.total(
        "imagegen_rejected_total", reason="invalid"
    ) + len(cases)
    assert not server.log("accepted")
    figures["requests"], figures["violations"] = len(cases), sum(len(paths) for _, paths in cases)
    check_healthy(server)


METHODS: dict[str, tuple[type[Message], bool]] = {
    "GenerateImage": (pb.GenerateImageRequest, True),
    "CancelGeneration": (pb.CancelGenerationRequest, False),
    "ListModels": (pb.ListModelsRequest, False),
    "GetServerInfo": (pb.GetServerInfoRequest, False),
    "RenderImage": (pb.RenderImageRequest, False),
    "WatchGeneration": (pb.WatchGenerationRequest, True),
    "GetGeneration": (pb.GetGenerationRequest, False),
}


def garbage(rng: random.Random) -> bytes:
    """Returns random bytes, or a good message with bits flipped, cut off, or repeated inside itself."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.choice([1, 2, 3, 10, 100, 1000, 60_000]))
    raw = bytearray(request("a cat", validate_only=True, request_id="x").SerializeToString())
    if kind == 1:
        for _ in range(rng.randint(1, 8)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(raw)
    if kind == 2:
        return bytes(raw[: rng.randrange(len(raw))])
    nested = b"\x82\x01" + b"\xff" * rng.randint(1, 9) + b"\x7f"  # a refiner whose length is a lie
    return bytes(raw) + nested + rng.randbytes(20)


async def send_raw(channel: grpc.aio.Channel, method: str, raw: bytes) -> grpc.StatusCode:
    """Sends bytes as a message and returns the status."""
    path = f"/{SERVICE}/{method}"
    make: Any = channel.unary_stream if METHODS[method][1] else channel.unary_unary
    call = make(path, request_serializer=None, response_deserializer=None)(raw, timeout=60)
    try:
        if METHODS[method][1]:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def allowed(method: str, raw: bytes) -> set[str]:
    """Returns the codes that an answer to these bytes may have."""
    try:
        METHODS[method][0].FromString(raw)
    except DecodeError:
        return {"INVALID_ARGUMENT"}
    return {
        # some of what is sent to CancelGeneration names a generation that runs
        "GenerateImage": {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "CANCELLED"},
        "CancelGeneration": {"OK", "INVALID_ARGUMENT", "NOT_FOUND"},
        "ListModels": {"OK"},
        "GetServerInfo": {"OK"},
        "RenderImage": {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "CANCELLED"},
        "GetGeneration": {"OK", "INVALID_ARGUMENT", "NOT_FOUND"},
        "WatchGeneration": {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "CANCELLED"},
    }[method]


async def test_random_bytes_are_refused(server: LiveServer, figures: dict[str, object]) -> None:
    """Bytes that are no message are INVALID_ARGUMENT for every method; those that are one by chance fare as such."""
    rng = random.Random(6)
    cases = [(rng.choice(list(METHODS)), garbage(rng)) for _ in range(REQUESTS)]
    async with grpc.aio.insecure_channel(server.address) as channel:
        codes = await each([partial(send_raw, channel, *case) for case in cases])
    for (method, raw), code in zip(cases, codes, strict=True):
        assert code.name in allowed(method, raw), (method, code, raw[:200])
    figures |= {code.name: count for code, count in Counter(codes).items()}
    assert Counter(codes)[grpc.StatusCode.INVALID_ARGUMENT] > REQUESTS / 5
    check_healthy(server)


@pytest.mark.parametrize("excess", [1, DATA_LIMIT, 8 * DATA_LIMIT])
def test_an_oversized_message_is_refused_by_the_transport(server: LiveServer, excess: int) -> None:
    """A message above the limit is RESOURCE_EXHAUSTED; one below with a prompt that is too long, INVALID_ARGUMENT."""
    with open_channel(server.address) as channel:
        ended = generate(channel, request("x" * (DATA_LIMIT - 200)))
        assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
        ended = generate(channel, request("x" * (DATA_LIMIT + excess)))
        assert ended.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not ended.accepted
    check_healthy(server)


def test_oversized_metadata_is_refused_by_the_transport(server: LiveServer) -> None:
    """Headers above gRPC's limit are RESOURCE_EXHAUSTED."""
    with open_channel(server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.ListModels(pb.ListModelsRequest(), metadata=(("x-long", "x" * 40_000),))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    check_healthy(server)


def test_unknown_names_are_not_found(server: LiveServer) -> None:
    """A model, a scheduler and a method that do not exist have codes and reasons of their own."""
    with open_channel(server.address) as channel:
        for message, reason in (
            (request(model="x"), "MODEL_NOT_FOUND"),
            (request(scheduler="x"), "SCHEDULER_NOT_FOUND"),
        ):
            ended = generate(channel, message)
            assert (ended.code, ended.reason) == (grpc.StatusCode.NOT_FOUND, reason)
        for path in (f"/{SERVICE}/Nothing", "/x.Y/Z", "/", "/a/b/c/d"):
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(path, None, None)(b"")
            error: Any = raised.value
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            info = detail_of(dict(error.trailing_metadata()), error_details_pb2.ErrorInfo)
            assert info is not None
            assert info.domain == "imagegen.v1"
    check_healthy(server)


def test_connections_that_speak_no_grpc_harm_nobody(server: LiveServer) -> None:
    """Noise on the socket, broken HTTP/2, HTTP/1 and silence leave other callers alone and no descriptor behind."""
    rng = random.Random(7)
    with open_channel(server.address) as channel:
        assert generate(channel, request()).ok
        descriptors = server.descriptors()
        openings = [
            b"",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(64),
            wire.PREFACE,
            wire.PREFACE + rng.randbytes(500),
            wire.PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + rng.randbytes(500),
        ]
        openings += [rng.randbytes(rng.randint(1, 2000)) for _ in range(size(30, 300))]
        held = []
        for opening in openings:
            noisy = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            noisy.sendall(opening)
            held.append(noisy)
        assert generate(channel, request()).ok
        for noisy in held:
            noisy.close()
        eventually(lambda: server.descriptors() <= descriptors, lambda: f"{server.descriptors()}, was {descriptors}")
    check_healthy(server)


async def test_paths_that_are_no_text_leave_the_port_open(server: LiveServer) -> None:
    """Hundreds of calls whose path is not UTF-8 get errors, on both ports; running and later calls do not notice."""
    assert server.health_port is not None
    bad = [partial(wire.call, port, b"/\xff\xfe/\x80", b"") for port in (server.port, server.health_port)]
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)
        running = asyncio.ensure_future(follow(stub.GenerateImage(request("a cat {base:stall=1.5@1}"))))
        in_flight = "imagegen_requests_in_flight"
        await asyncio.to_thread(eventually, lambda: server.metrics().total(in_flight) == 1, "it never ran")
        answers = await each(bad * size(150, 1500))
        assert all(frames and frames[-1].flags & wire.END_STREAM for frames in answers)
        assert (await running).ok
    check_healthy(server)
