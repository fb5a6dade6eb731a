"""Several servers behind one Envoy: who gets work, and what callers see of servers that go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.http_edge.envoy import Envoy
from support.http import Answer, fetch
from support.http_edge import in_front_of, post, status_of
from support.live_server import LiveServer, live_server
from support.waiting import eventually

HTTP_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
"""docs/http.md has the same table."""


class Scripted(pb_grpc.ImageGenServicer):
    """Ends every RenderImage with the status that the prompt names; has no models."""

    def __init__(self) -> None:
        self.calls = 0

    def RenderImage(self, request: pb.RenderImageRequest, context: grpc.ServicerContext) -> pb.RenderImageResponse:  # noqa: N802
        self.calls += 1
        code = grpc.StatusCode[request.generation.prompt]
        status: Any = rpc_status.to_status(status_of(code.value[0], f"this is {code.name}"))
        reason = ("x-error-reason", request.generation.scheduler or "SCRIPTED")
        context.abort_with_status(status._replace(trailing_metadata=(*status.trailing_metadata, reason)))
        raise AssertionError

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:  # noqa: N802
        return pb.ListModelsResponse()


SERVICERS = tuple(Scripted() for _ in range(2))  # type: ignore[abstract] # as generated, what is left out is unimplemented


def stopped(server: grpc.Server) -> None:
    """Stops a server at once."""
    server.stop(None).wait()


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """host:port of a server in this process for each of SERVICERS."""
    with ExitStack() as stack:
        addresses = []
        for servicer in SERVICERS:
            server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
            pb_grpc.add_ImageGenServicer_to_server(servicer, server)
            healthy = health.HealthServicer()
            healthy.set("imagegen.v1.ImageGen", health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            server.start()
            stack.callback(stopped, server)
        yield addresses


@pytest.fixture(scope="module")
def scripted(addresses: list[str]) -> Iterator[Envoy]:
    """Servers that end calls as they are told, behind one Envoy."""
    with in_front_of(*addresses) as edge:
        yield edge


@pytest.mark.parametrize("code", HTTP_STATUS, ids=lambda code: code.name)
def test_every_status_has_its_place_in_http(scripted: Envoy, code: grpc.StatusCode) -> None:
    """The HTTP status, and the gRPC status with its details as JSON; nothing is tried twice."""
    before = sum(servicer.calls for servicer in SERVICERS)
    answer = post(f"{scripted.url}/api/media/generate-image", {"prompt": code.name})
    assert answer.status == HTTP_STATUS[code]
    assert (answer.json["code"], answer.json["message"]) == (code.value[0], f"this is {code.name}")
    assert answer.details()["ErrorInfo"]["reason"] == "SCRIPTED"
    assert sum(servicer.calls for servicer in SERVICERS) == before + 1


def test_only_what_was_not_begun_goes_to_another_server(scripted: Envoy) -> None:
    """A server that loads or drains passes the call on; one that lost its device, maybe by this very call, does not."""
    for reason, most in (("DRAINING", 3), ("LOADING", 3), ("DEVICE_LOST", 1)):
        before = [servicer.calls for servicer in SERVICERS]
        answer = post(f"{scripted.url}/api/media/generate-image", {"prompt": "UNAVAILABLE", "scheduler": reason})
        assert answer.status == 503
        tried = [servicer.calls - was for servicer, was in zip(SERVICERS, before, strict=True)]
        assert sum(tried) == most, reason
        assert (min(tried) > 0) == (most > 1)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[LiveServer, LiveServer, Envoy]]:
    """Two servers on the fake model behind one Envoy."""
    with ExitStack() as stack:
        directories = [tmp_path / name for name in ("one", "two")]
        servers = []
        for directory in directories:
            directory.mkdir()
            arguments = ("--fake-script", '{"evaluation": 0.005}', "--grace-period", "20")
            servers.append(stack.enter_context(live_server(directory, *arguments)))
        yield servers[0], servers[1], stack.enter_context(in_front_of(*servers))


def test_servers_share_the_work_and_may_go(two: tuple[LiveServer, LiveServer, Envoy]) -> None:
    """Both get work; no call fails while one drains, nor after one was killed and health has noticed."""
    one, other, edge = two

    def generate(number: int) -> Answer:
        return post(f"{edge.url}/api/media/generate-image", {"prompt": f"cat {number}", "num_inference_steps": 20})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(generate, range(16)))
        assert [answer.status for answer in answers] == [200] * 16
        done = [s.metrics().total("imagegen_request_duration_seconds_count", outcome="ok") for s in (one, other)]
        assert min(done) >= 2, done

        stop = threading.Event()
        seen: list[Future[Answer]] = []

        def keep_asking() -> None:
            while not stop.is_set():
                wait_for([call := pool.submit(generate, len(seen))])
                seen.append(call)

        callers = [threading.Thread(target=keep_asking) for _ in range(4)]
        for caller in callers:
            caller.start()
        one.terminate()
        assert one.wait() == 0
        stop.set()
        for caller in callers:
            caller.join()
        assert [call.result() for call in seen if call.result().status != 200] == []

    assert fetch(f"{edge.url}/healthz").status == 200
    other.process.kill()
    other.wait()
    eventually(lambda: fetch(f"{edge.url}/healthz").status == 503, "Envoy does not notice")
    gone = generate(0)
    assert (gone.status, gone.json["code"]) == (503, grpc.StatusCode.UNAVAILABLE.value[0])
    assert "retry-after" in gone.headers


def test_a_killed_server_takes_no_new_call_with_it(tmp_path: Path, addresses: list[str]) -> None:
    """After a kill, calls that begin go to the other server: at once by retries, then by health."""
    with live_server(tmp_path) as server, in_front_of(server, addresses[0]) as edge:

        def models() -> list[int]:
            answers = [fetch(f"{edge.url}/api/media/models") for _ in range(20)]
            assert {answer.status for answer in answers} == {200}
            return [len(answer.json["models"]) for answer in answers]

        assert min(models()) == 0 < max(models())  # both answer, one without models
        server.process.kill()
        server.wait()
        assert max(models()) == 0
