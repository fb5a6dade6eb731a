"""Malformed and hostile requests against a real server: each refused with a code that says whose fault it is."""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from support.live_server import LiveServer, eventually, live_server, open_channel
from support.load import Ended, detail_of, follow, generate, request, size

REQUESTS = size(1000, 10_000)
AT_ONCE = 32
SERVICE = "imagegen.v1.ImageGen"
DATA_LIMIT = 2**20
"""Bytes of a request message that the server takes."""
INTS = (0, -1, -(2**31), 2**31 - 1)
NUMBERS = (math.nan, math.inf, -math.inf, -1.0, -1e308, 1e308)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the fake model."""
    with live_server(tmp_path_factory.mktemp("hostile")) as running:
        yield running


def text(least: int) -> Callable[[random.Random], str]:
    """Returns a maker of texts longer than allowed, of one to four bytes a character."""
    return lambda rng: rng.choice("aé漢🎨\0") * rng.randint(least, 4 * least)


def one_of(*values: Any) -> Callable[[random.Random], Any]:
    """Returns a chooser."""
    return lambda rng: rng.choice(values)


SCALARS: dict[str, Callable[[random.Random], Any]] = {
    "request_id": one_of("a b", "x" * 129, "é", "../../etc/passwd", "a\n", "\0", "%s%n", "漢" * 64),
    "model": text(129),
    "prompt": lambda rng: rng.choice(["", " ", "\t\n", text(2001)(rng), text(20_000)(rng)]),
    "prompt_2": text(2001),
    "negative_prompt": text(2001),
    "negative_prompt_2": text(2001),
    "num_inference_steps": one_of(*INTS, 19, 101),
    "guidance_scale": one_of(*NUMBERS, 0.0, 0.999, 20.001),
    "width": one_of(*INTS, 7, 63, 65, 4097, 4104, -64),
    "height": one_of(*INTS, 7, 63, 65, 4097, 4104, -64),
    "num_images": one_of(*INTS, 9),
    "seed": one_of(-1, -(2**63), -(2**31)),
    "scheduler": text(129),
    "refiner.mode": one_of(3, -1, 99, 2**31 - 1, -(2**31)),
    "refiner.num_inference_steps": one_of(*INTS, 101),
    "refiner.strength": one_of(*NUMBERS, 0.0, 1.001),
    "refiner.switch_at": one_of(*NUMBERS, 0.0, 1.0),
    "refiner.guidance_scale": one_of(*NUMBERS, 0.0, 20.001),
    "refiner.aesthetic_score": one_of(*NUMBERS, 10.001),
    "refiner.negative_aesthetic_score": one_of(*NUMBERS, 10.001),
    "refiner.prompt": text(2001),
    "output.mime_type": one_of("image/gif", "text/html", "IMAGE/PNG", "x" * 5000, "image/png\0", "漢"),
    "output.quality": one_of(*INTS, 101),
    "progress.preview_count": one_of(-1, 17, 2**31 - 1, -(2**31)),
    "priority": one_of(3, -1, 2**31 - 1),
    "use_generation": one_of(False),
    "micro_conditioning.crops_coords_top_left.x": one_of(-1, 65_537, 2**31 - 1),
    "micro_conditioning.negative_crops_coords_top_left.y": one_of(-1, 65_537, -(2**31)),
}
"""Single fields and what is wrong for each, whatever the other fields say. Sizes and repeated fields are below."""

SIZES = tuple(f"micro_conditioning.{name}" for name in ("original_size", "target_size"))
SPECIAL = ("progress.min_interval", "allowed_fallbacks.kinds", "refiner", *(f"{path}.height" for path in SIZES))


def put(message: Message, path: str, value: Any) -> None:
    """Sets a field by its path."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    setattr(message, name, value)


def spoil(message: pb.GenerateImageRequest, path: str, rng: random.Random) -> None:
    """Makes one field of a request wrong."""
    if path in SCALARS:
        put(message, path, SCALARS[path](rng))
    elif path == "progress.min_interval":
        interval = message.progress.min_interval
        interval.seconds, interval.nanos = rng.choice([(-1, 0), (61, 0), (2**62, 0), (1, -1), (0, 10**9), (0, -1)])
    elif path == "allowed_fallbacks.kinds":
        message.allowed_fallbacks.kinds.extend(rng.choice([[0], [2], [-1], [1] * 17, [1, 99], [2**31 - 1] * 500]))
    elif path == "refiner":
        message.use_refinement = False
        if not message.refiner.ByteSize():
            message.refiner.prompt = "x"
    else:
        put(message, path, rng.choice([*INTS, 65_537]))
        put(message, path.replace("height", "width"), 64)


def spoilt(rng: random.Random) -> tuple[pb.GenerateImageRequest, set[str]]:
    """Returns a request with one to twelve wrong fields, and their paths."""
    paths = rng.sample([*SCALARS, *SPECIAL], rng.randint(1, 12))
    message = request()
    message.ClearField("refiner")
    for path in paths:
        spoil(message, path, rng)
    return message, set(paths)


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


async def test_every_violation_of_a_bad_request_is_named(server: LiveServer) -> None:
    """A request with k wrong fields is refused with INVALID_ARGUMENT that names these k and no other."""
    rng = random.Random(5)
    cases = [spoilt(rng) for _ in range(REQUESTS)]
    before = server.metrics()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)
        answers: list[Ended] = await each(
            [lambda message=message: follow(stub.GenerateImage(message)) for message, _ in cases]
        )
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
    }.get(method, {"UNIMPLEMENTED"})


async def test_random_bytes_are_refused(server: LiveServer) -> None:
    """Bytes that are no message are INVALID_ARGUMENT for every method; those that are one by chance fare as such."""
    rng = random.Random(6)
    cases = [(rng.choice(list(METHODS)), garbage(rng)) for _ in range(REQUESTS)]
    async with grpc.aio.insecure_channel(server.address) as channel:
        codes = await each([lambda case=case: send_raw(channel, *case) for case in cases])
    for (method, raw), code in zip(cases, codes, strict=True):
        assert code.name in allowed(method, raw), (method, code, raw[:200])
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
            stub.ListModels(pb.ListModelsRequest(), metadata=[("x-long", "x" * 40_000)])
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined] # a call
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
                channel.unary_unary(path)(b"")
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


async def test_a_path_that_is_no_text_does_not_close_the_port(server: LiveServer) -> None:
    """A call whose path is not UTF-8 gets no answer that helps it, and running and later calls do not notice."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)
        running = asyncio.ensure_future(follow(stub.GenerateImage(request("a cat {base:stall=0.5@1}"))))
        await asyncio.sleep(0.1)
        await wire.call(server.port, b"/\xff\xfe/\x80", b"")
        assert (await running).ok
    bugs = server.log("bug")
    assert [bug["method"] for bug in bugs] == ["accept"]

    def served() -> bool:
        with open_channel(server.address) as channel:
            return generate(channel, request(), timeout=30).ok

    await asyncio.to_thread(eventually, served, "the port is closed")
