"""What the HTTP edge tells Prometheus: Envoy's own figures, read-only, and alerts that name what they read."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.http_edge.envoy import Envoy
from support.http import fetch
from support.http_edge import post, served_over_http
from support.live_server import LiveServer, Samples
from support.rules import ENVOY
from support.waiting import eventually

WAYS_TO_STOP_IT = ("/quitquitquit", "/healthcheck/fail", "/drain_listeners", "/reset_counters", "/logging?level=trace")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Envoy]]:
    """A server on the fake model, and Envoy."""
    with served_over_http(tmp_path_factory.mktemp("http"), "--fake-script", '{"evaluation": 0.001}') as found:
        yield found


def figures(edge: Envoy) -> Samples:
    """Returns what Prometheus would read."""
    answer = fetch(f"http://127.0.0.1:{edge.metrics_port}/stats/prometheus")
    assert answer.status == 200
    return Samples(answer.body.decode())


def failed(edge: Envoy) -> float:
    """Returns the calls that Envoy could not bring to a server."""
    name = "envoy_cluster_upstream_rq_xx_total"  # the parser names counters so
    return figures(edge).total(name, envoy_cluster_name="imagegen", envoy_response_code_class="5")


def test_envoys_own_pages_cannot_be_reached_through_it(both: tuple[LiveServer, Envoy]) -> None:
    """Only the figures can be read; nothing else is there, and nothing can be changed."""
    own = f"http://127.0.0.1:{both[1].metrics_port}"
    for path in ("/", "/stats", "/config_dump", "/certs", "/stats/prometheus/../../config_dump", *WAYS_TO_STOP_IT):
        for method in ("GET", "POST"):
            assert fetch(f"{own}{path}", method).status == 404, (method, path)
    assert fetch(f"{own}/stats/prometheus", "POST").status == 404
    assert fetch(f"{both[1].url}/healthz").status == 200
    assert fetch(f"{both[1].url}/stats/prometheus").status == 404  # nor on the callers' port


def test_calls_that_reach_no_server_are_counted_whatever_they_speak(both: tuple[LiveServer, Envoy]) -> None:
    """JSON is answered 503, gRPC 200 with UNAVAILABLE; both count as 5xx. All that rules and panels read is there."""
    server, edge = both
    generate = f"{edge.url}/api/media/generate-image"
    assert post(generate, {"prompt": "a cat"}).status == 200
    assert figures(edge).total("envoy_cluster_membership_healthy", envoy_cluster_name="imagegen") == 1
    assert failed(edge) == 0
    server.process.kill()
    server.wait()
    eventually(lambda: fetch(f"{edge.url}/healthz").status == 503, "Envoy does not notice")
    before = failed(edge)
    assert post(generate, {"prompt": "a cat"}).status == 503
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel, pytest.raises(grpc.RpcError):
        pb_grpc.ImageGenStub(channel).ListModels(pb.ListModelsRequest(), timeout=30)
    assert fetch(f"{edge.url}/healthz").status == 503  # is a probe's, and no call
    eventually(lambda: failed(edge) == before + 2, lambda: f"{failed(edge)} were counted")
    seen = figures(edge)
    assert seen.total("envoy_cluster_membership_healthy", envoy_cluster_name="imagegen") == 0
    for name, labels in ENVOY.items():
        found = [{label for label, _ in has} for series, has in seen.names() if series in (name, f"{name}_total")]
        assert found, name
        assert all(labels <= has for has in found), name
