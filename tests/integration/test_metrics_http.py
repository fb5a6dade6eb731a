"""The metrics port, scraped over HTTP."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from imagegen_server import core
from imagegen_server.errors import StartupError
from imagegen_server.telemetry import AllocatorCollector, Metrics, MetricsObserver, MetricsServer
from imagegen_server.top.scrape import Scraper
from support.http import get


class State:
    """The server's state, as the test sets it."""

    def __init__(self) -> None:
        self.name = "loading"

    def __call__(self) -> str:
        return self.name


@pytest.fixture
def state() -> State:
    """What /healthz reports."""
    return State()


@pytest.fixture
def registry() -> CollectorRegistry:
    """What /metrics shows."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """Metrics of a server with an allocator."""
    metrics = Metrics(registry, models=("shapes",), methods=(("unary", "imagegen.v1.ImageGen", "ListModels"),))
    registry.register(AllocatorCollector(lambda: {"allocated_bytes": 12345, "ooms": 2}, metrics.count_gpu_error))
    return metrics


@pytest.fixture
def server(registry: CollectorRegistry, metrics: Metrics, state: State) -> Iterator[MetricsServer]:
    """A started server on a free port."""
    server = MetricsServer(registry, state, host="127.0.0.1", port=0)
    server.start()
    yield server
    server.stop()


def test_a_scrape_parses_and_has_what_was_observed(server: MetricsServer, metrics: Metrics) -> None:
    """The text form parses and has an observed value, a collected one and a series at 0."""
    MetricsObserver(metrics, "shapes").batch_executed(core.Stage.BASE, 4, 2, 0.5)
    answer = get(server.port, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    labels = (("model", "shapes"), ("stage", "base"))
    assert samples["imagegen_step_duration_seconds_sum", labels] == 0.5
    assert samples["imagegen_torch_allocated_bytes", ()] == 12345
    assert samples["imagegen_torch_ooms_total", ()] == 2
    assert samples["imagegen_rejected_total", (("reason", "queue_full"),)] == 0


def test_openmetrics_is_given_to_those_who_ask(server: MetricsServer) -> None:
    """With the OpenMetrics media type in Accept, the answer is OpenMetrics and parses strictly."""
    answer = get(server.port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family.type for family in openmetrics.text_string_to_metric_families(answer.body.decode())}
    assert families["imagegen_rejected"] == "counter"
    assert families["imagegen_request_duration_seconds"] == "histogram"


def test_health_follows_the_state(server: MetricsServer, state: State) -> None:
    """/healthz answers 200 with the state while serving, and 503 with it before and after."""
    for name, expected in (("loading", 503), ("serving", 200), ("draining", 503)):
        state.name = name
        answer = get(server.port, "/healthz")
        assert (answer.status, answer.json) == (expected, {"state": name})


@pytest.mark.parametrize("name", ["loading", "serving", "draining"])
def test_life_does_not_depend_on_the_state(server: MetricsServer, state: State, name: str) -> None:
    """/livez answers 200 as long as the process answers, so that nothing is killed for loading or draining."""
    state.name = name
    answer = get(server.port, "/livez")
    assert (answer.status, answer.json) == (200, {"state": name})


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz/x", "/favicon.ico", "/..%2fmetrics"])
def test_nothing_else_is_there(server: MetricsServer, path: str) -> None:
    """Other paths are 404 and name those that exist."""
    answer = get(server.port, path)
    assert answer.status == 404
    assert answer.json["paths"] == ["/metrics", "/healthz", "/livez"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_health_is_only_read(server: MetricsServer, state: State, method: str) -> None:
    """Writing to /healthz is refused."""
    state.name = "serving"
    assert get(server.port, "/healthz", method).status == 405


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/livez"])
def test_a_head_comes_without_its_body(server: MetricsServer, state: State, path: str) -> None:
    """HEAD is answered with headers, then the connection ends."""
    state.name = "serving"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0].endswith(b" 200 OK")
    assert b"Content-Type: " in head
    assert body == b""


def test_scrapes_run_side_by_side(server: MetricsServer, state: State) -> None:
    """A client that never finishes its request delays no other."""
    state.name = "serving"
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"GET /metr")
        assert get(server.port, "/healthz").status == 200
        assert get(server.port, "/metrics").status == 200


def test_stopping_frees_the_port_and_the_thread(registry: CollectorRegistry, metrics: Metrics, state: State) -> None:
    """After stop the port can be bound anew and no thread is left; a server never started stops as well."""
    assert metrics.registry is registry
    first = MetricsServer(registry, state, host="127.0.0.1", port=0)
    first.start()
    port = first.port
    assert port > 0
    first.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "metrics-http"]
    second = MetricsServer(registry, state, host="127.0.0.1", port=port)
    assert second.port == port
    second.stop()


def test_a_taken_port_is_an_error(server: MetricsServer, registry: CollectorRegistry, state: State) -> None:
    """Two servers cannot share a port silently."""
    with pytest.raises(OSError, match="in use"):
        MetricsServer(registry, state, host="127.0.0.1", port=server.port)


def test_ipv6_is_served(registry: CollectorRegistry, state: State) -> None:
    """An IPv6 address is bound as such."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    server = MetricsServer(registry, state, host="::1", port=0)
    server.start()
    connection = http.client.HTTPConnection("::1", server.port, timeout=30)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 503
    connection.close()
    server.stop()


def test_scrapes_may_need_a_token(registry: CollectorRegistry, metrics: Metrics, state: State, tmp_path: Path) -> None:
    """Without it, or with another, there are no metrics; health is for everybody; a new token is used at once."""
    file = tmp_path / "token"
    for content in (None, " \n", "first\nsecond\n", "two words", "pässword"):
        if content is not None:
            file.write_text(content, encoding="utf-8")
        with pytest.raises(StartupError, match="the token for metrics"):
            MetricsServer(registry, state, host="127.0.0.1", port=0, token_file=file)
    file.write_text("first\n")
    server = MetricsServer(registry, state, host="127.0.0.1", port=0, token_file=file)
    server.start()
    try:
        for wrong in (
            {},
            {"Authorization": "Bearer other"},
            {"Authorization": "first"},
            {"Authorization": "Basic first"},
        ):
            answer = get(server.port, "/metrics", **wrong)
            assert (answer.status, answer.body) == (401, b'{"error": "a bearer token is needed"}\n')
        assert get(server.port, "/metrics", Authorization="Bearer first").status == 200
        assert get(server.port, "/livez").status == 200
        file.write_text("second")
        assert get(server.port, "/metrics", Authorization="Bearer first").status == 401
        scraper = Scraper(f"http://127.0.0.1:{server.port}/metrics", "second")
        assert scraper.scrape()
        file.unlink()
        assert get(server.port, "/metrics", Authorization="Bearer ").status == 401
    finally:
        server.stop()
