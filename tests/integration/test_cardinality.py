"""No caller can mint a series, and a process has few of them."""

from __future__ import annotations

import random
import string
import subprocess
import urllib.request
from collections.abc import Iterator

import grpc
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from support.live_server import LiveServer, live_server, open_channel
from support.load import request, size
from support.promtool import program

MOST_SERIES = 2000
_ALPHABET = string.ascii_letters + string.digits + "-._~é漢{}\"'\\"
_GPU = '{"gpus": [{}, {}], "memory_used": 1000000000, "allocator": {"ooms": 1}}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with two GPUs: the most series that one has."""
    with live_server(tmp_path_factory.mktemp("server"), f"--gpu-script={_GPU}") as running:
        yield running


def test_hostile_names_add_no_series(server: LiveServer) -> None:
    """Unknown methods, models and tenants by the thousand leave the number of series as it was."""
    rng = random.Random(8)
    with open_channel(server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)
        for warm in (_call_unknown, _call_with_unknown_model):
            warm(channel, stub, rng)
        list(stub.GenerateImage(request()))
        before = server.metrics().names()
        for _ in range(size(500, 10_000)):
            _call_unknown(channel, stub, rng)
        for _ in range(size(200, 10_000)):
            _call_with_unknown_model(channel, stub, rng)
    after = server.metrics()
    assert after.names() == before
    unknown = {"grpc_service": "_OTHER", "grpc_method": "_OTHER"}
    assert after.total("grpc_server_started_total", **unknown) == size(500, 10_000) + 1
    assert after.total("imagegen_request_duration_seconds_count", model="other") == size(200, 10_000) + 1


def test_a_process_has_at_most_2000_series(server: LiveServer) -> None:
    """Everything counted that a scrape stores, the buckets of histograms included."""
    assert 0 < len(server.metrics().names()) <= MOST_SERIES


def test_promtool_finds_nothing_to_mend(server: LiveServer) -> None:
    """Names, units, types and help texts are as Prometheus' own linter wants them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=30) as answer:
        text = answer.read()
    found = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(_ALPHABET, k=rng.randint(1, 40)))


def _call_unknown(channel: grpc.Channel, _: pb_grpc.ImageGenStub, rng: random.Random) -> None:
    """Calls a method that nobody serves, as a tenant that nobody knows."""
    service = rng.choice(("imagegen.v1.ImageGen", "".join(rng.choices(string.ascii_letters, k=20))))
    method = "".join(rng.choices(string.ascii_letters, k=20))
    call = channel.unary_unary(f"/{service}/{method}", None, None)
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", timeout=60, metadata=(("x-tenant", "".join(rng.choices(string.ascii_letters, k=20))),))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def _call_with_unknown_model(_: grpc.Channel, stub: pb_grpc.ImageGenStub, rng: random.Random) -> None:
    """Asks for a model that nobody has."""
    hostile = pb.GenerateImageRequest(prompt="a cat", model=_word(rng))
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.GenerateImage(hostile, timeout=60))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
