"""What the headers of one caller do to others, whose calls Envoy sends over the same connection."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import grpc
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub
from imagegen_server.http_edge.envoy import Envoy
from support.http import fetch
from support.http_edge import in_front_of, post
from support.live_server import live_server, open_channel

DRY = {"prompt": "a cat", "validate_only": True}
BAD_DEADLINES = ("30s", "30", "S", "-1S", "123456789S", "1.5S", "", "30S, 30S")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """A server on the fake model behind Envoy."""
    with live_server(tmp_path_factory.mktemp("server")) as server, in_front_of(server) as found:
        yield found


def test_what_cannot_be_read_in_one_call_is_no_matter_of_others(edge: Envoy) -> None:
    """A header whose value is wrong fails its own call; later ones that have that header with a right value succeed."""
    url = f"{edge.url}/api/media/models"
    names = ("x-own-bin", "grpc-trace-bin", "grpc-encoding", "grpc-previous-rpc-attempts")
    bad = [fetch(url, headers={name: "***"}).status for name in names for _ in range(8)]
    assert set(bad) == {500}
    for number in range(4):  # each over a connection to Envoy of its own, whose threads have one to the server each
        with open_channel(f"127.0.0.1:{edge.port}", ("grpc.enable_retries", 0)) as channel:
            metadata = (("x-own-bin", bytes((number,))), ("grpc-trace-bin", bytes((number,))))
            call, deadline = ImageGenStub(channel).ListModels, 30 + number
            call(pb.ListModelsRequest(), metadata=metadata, timeout=deadline, compression=grpc.Compression.Gzip)


@pytest.mark.parametrize("deadline", BAD_DEADLINES)
def test_a_deadline_that_is_none_is_refused(edge: Envoy, deadline: str) -> None:
    """As the caller's mistake, with what is right, and without troubling the server."""
    answer = post(f"{edge.url}/api/media/generate-image", DRY, grpc_timeout=deadline)
    assert (answer.status, answer.json["code"]) == (400, 3)
    assert answer.json["message"].startswith("grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u and n")
    assert fetch(f"{edge.url}/api/media/models", headers={"grpc-timeout": deadline}).status == 400


def test_deadlines_pass_in_every_unit(edge: Envoy) -> None:
    """Up to the longest that can be written."""
    for deadline in ("1H", "1M", "30S", "30000m", "30000000u", "99999999H"):
        assert post(f"{edge.url}/api/media/generate-image", DRY, grpc_timeout=deadline).status == 200, deadline


def test_a_deadline_that_is_none_has_a_status_of_grpc_too(edge: Envoy) -> None:
    """INVALID_ARGUMENT. No library of gRPC sends such a deadline, so this is asked by hand."""
    headers = ("Content-Type: application/grpc", "TE: trailers", "grpc-timeout: 30s")
    command = ["curl", "-sS", "-i", "--http2-prior-knowledge", "-X", "POST"]  # no body, to be left unread
    command += [word for header in headers for word in ("-H", header)]
    asked = [*command, f"{edge.url}/imagegen.v1.ImageGen/ListModels"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "HTTP/2 200" in answer
    assert "grpc-status: 3" in answer
    assert "grpc-message: grpc-timeout must be" in answer
