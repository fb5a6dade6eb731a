"""Tracing and the rest of the process: collectors that are down, the end of the server, exemplars, tracing off."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.telemetry.otlp import STOP_SECONDS
from support.live_server import COMMAND, LiveServer, live_server, open_channel
from support.load import generate, request, slow_steps
from support.otlp import collector, new_parent
from support.ports import closed_port
from support.waiting import eventually

pytestmark = pytest.mark.slow

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
MANY_SECONDS = 60.0
"""Far above what is waited for; only a hang takes longer."""


@contextmanager
def _silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def _stopped(server: LiveServer) -> float:
    """Ends a server; returns the seconds that took."""
    began = time.monotonic()
    server.terminate()
    assert server.wait(MANY_SECONDS) == 0, server.raw_log()
    return time.monotonic() - began


@pytest.mark.parametrize("port", [closed_port, _silent_port], ids=["closed", "silent"])
def test_a_dead_collector_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: object, figures: dict[str, object]
) -> None:
    """Generations end well, also when the queue of spans is full; one line tells of the outage, one of the loss."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert callable(port)
    with port() as number:
        arguments = ("--tracing", "otlp", "--tracing-endpoint", f"http://127.0.0.1:{number}")
        with live_server(tmp_path, *arguments) as server, open_channel(server.address) as channel:
            assert all(generate(channel, request("a cat")).ok for _ in range(30))
            eventually(lambda: bool(server.log("spans are not delivered")), server.raw_log)
            assert generate(channel, request("a cat")).ok
            assert server.idle()
            figures["stop_seconds"] = _stopped(server)
            (outage,) = server.log("spans are not delivered")
            (lost,) = server.log("spans were lost")
            assert outage["reason"]
            assert lost["spans"] == 31 * 8  # a call and its seven stages
            assert [line for line in server.log() if line["logger"].startswith("opentelemetry")] == []


def test_a_collector_that_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage spans arrive again, and a second outage is a second line."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with closed_port() as number:
        pass
    arguments = ("--tracing", "otlp", "--tracing-endpoint", f"http://127.0.0.1:{number}")
    with live_server(tmp_path, *arguments) as server, open_channel(server.address) as channel:
        for outage in (1, 2):
            assert generate(channel, request("a cat")).ok
            eventually(lambda: len(server.log("spans are not delivered")) == outage, server.raw_log)  # noqa: B023
            with collector(number) as seen:

                def arrived() -> bool:
                    generate(channel, request("a cat"))
                    return bool(seen.spans)

                eventually(arrived, server.raw_log)
        assert _stopped(server) < MANY_SECONDS


def test_the_last_spans_are_sent_before_the_end(tmp_path: Path) -> None:
    """A server that is asked to stop right after a generation has delivered its spans when it is gone."""
    with collector() as seen:
        arguments = ("--tracing", "otlp", "--tracing-endpoint", seen.endpoint)
        with live_server(tmp_path, *arguments) as server, open_channel(server.address) as channel:
            trace_id, _, metadata = new_parent()
            assert generate(channel, request("a cat"), metadata=metadata).ok
            _stopped(server)
            assert len(seen.of(trace_id)) == 8
            assert server.log("spans were lost") == []


def test_a_full_queue_and_a_drain(tmp_path: Path) -> None:
    """A refusal for want of room is rejected but no error; a generation that the shutdown ends is one."""
    arguments = ["--max-running", "1", "--queue-capacity", "1", "--grace-period", "30", "--tracing", "otlp"]
    with collector() as seen:
        with (
            live_server(tmp_path, *arguments, "--tracing-endpoint", seen.endpoint) as server,
            open_channel(server.address) as channel,
        ):
            stub = pb_grpc.ImageGenStub(channel)
            parents = [new_parent() for _ in range(3)]
            running = stub.GenerateImage(request("a cat " + slow_steps(0.1, base=20)), metadata=parents[0][2])
            next(event for event in running if event.WhichOneof("event") == "step_progress")
            waiting = stub.GenerateImage(request("a dog"), metadata=parents[1][2])
            next(iter(waiting))
            refused = generate(channel, request("a cow"), metadata=parents[2][2])
            server.terminate()
            with pytest.raises(grpc.RpcError):
                list(waiting)
            assert waiting.code() is grpc.StatusCode.UNAVAILABLE
            assert list(running)[-1].WhichOneof("event") == "completed"
            assert server.wait(MANY_SECONDS) == 0
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        completed, ended, rejected = (seen.call(trace_id) for trace_id, _, _ in parents)
        assert completed is not None
        assert (completed.attributes["imagegen.outcome"], completed.error) == ("ok", False)
        assert rejected is not None
        assert (rejected.attributes["imagegen.reject_reason"], rejected.error) == ("queue_full", False)
        assert (rejected.attributes["imagegen.outcome"], rejected.attributes["rpc.grpc.status_code"]) == ("rejected", 8)
        assert ended is not None
        assert (ended.attributes["rpc.grpc.status_code"], ended.error) == (14, True)
        assert [(span.name, span.error) for span in seen.stages(parents[1][0])] == [("queued", True)]


def _scraped(server: LiveServer, accept: str) -> str:
    """Returns /metrics in the form that a scraper asks for."""
    asked = urllib.request.Request(f"http://127.0.0.1:{server.metrics_port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - an address of our own
        return str(answer.read().decode())


def test_exemplars_lead_to_traces(tmp_path: Path) -> None:
    """In the OpenMetrics form a duration has the id of a sampled trace, and of no other; the text form has none."""
    with collector() as seen:
        arguments = ("--tracing", "otlp", "--tracing-endpoint", seen.endpoint)
        with live_server(tmp_path, *arguments) as server, open_channel(server.address) as channel:
            kept, left_out = new_parent(), new_parent(sampled=False)
            for _, _, metadata in (kept, left_out):
                assert generate(channel, request("a cat"), metadata=metadata).ok
            eventually(server.idle, "something is in flight")
            found = {
                family.name: sample.exemplar.labels
                for family in text_string_to_metric_families(_scraped(server, OPENMETRICS))
                for sample in family.samples
                if sample.exemplar is not None
            }
            assert kept[0] not in _scraped(server, "text/plain")
    assert found == {
        name: {"trace_id": kept[0]}
        for name in (
            "imagegen_request_duration_seconds",
            "imagegen_stage_duration_seconds",
            "imagegen_queue_wait_seconds",
            "imagegen_time_to_first_progress_seconds",
        )
    }


@pytest.mark.parametrize(("ratio", "expected"), [("0", 0), ("1", 1)])
def test_the_part_that_is_kept(tmp_path: Path, ratio: str, expected: int) -> None:
    """The ratio decides about traces that begin here, and not about those whose caller has decided."""
    with collector() as seen:
        arguments = ("--tracing", "otlp", "--tracing-endpoint", seen.endpoint, "--tracing-sample-ratio", ratio)
        with live_server(tmp_path, *arguments) as server, open_channel(server.address) as channel:
            generate(channel, request("a cat", request_id="mine"))
            theirs, _, metadata = new_parent()
            generate(channel, request("a cat", request_id="theirs"), metadata=metadata)
            _stopped(server)
        calls = [span for span in seen.spans if span.kind == "SERVER"]
        assert [span.trace_id for span in calls if span.attributes["imagegen.request_id"] == "theirs"] == [theirs]
        assert len(calls) == 1 + expected


_MODULES = """
import json, pathlib, signal, sys, threading, time, os
from imagegen_server.__main__ import main

def stop(ports=pathlib.Path(sys.argv[1])):
    while not ports.exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop, daemon=True).start()
sys.argv[1:] = ["--model", "fake", "--port", "0", "--metrics-port", "0", "--port-file", sys.argv[1], *sys.argv[2:]]
status = main()
print(json.dumps([status, sorted(name for name in sys.modules if name.partition(".")[0] == "opentelemetry")]))
"""


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("IMAGEGEN_", "OTEL_"))}


@pytest.mark.parametrize("tracing", ["none", "otlp"])
def test_a_server_without_tracing_imports_nothing_of_it(tmp_path: Path, tracing: str) -> None:
    """A server that has served and ended with tracing off has no module of OpenTelemetry in memory."""
    command = [sys.executable, "-c", _MODULES, str(tmp_path / "ports.json"), "--tracing", tracing]
    ran = subprocess.run(command, env=_environment(), capture_output=True, timeout=MANY_SECONDS, check=True, text=True)
    status, modules = json.loads(ran.stdout)
    assert status == 0
    assert bool(modules) is (tracing == "otlp")


def test_tracing_without_the_extra_is_a_clear_refusal() -> None:
    """Where OpenTelemetry cannot be imported, the server does not start, and says what to install."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None; from imagegen_server.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "--model", "fake", "--port", "0", "--tracing", "otlp"]
    ran = subprocess.run(command, env=_environment(), capture_output=True, timeout=MANY_SECONDS, check=False, text=True)
    assert ran.returncode == 3
    assert ran.stderr.strip() == (
        "imagegen-server: tracing needs an extra that is not installed: "
        "pip install '.[server,otel]' in a checkout of ImageGen"
    )


def test_a_wrong_endpoint_is_a_wrong_setting() -> None:
    """An endpoint without a scheme is refused at once, with the name of the setting."""
    command = [*COMMAND, "--model", "fake", "--tracing", "otlp", "--tracing-endpoint", "localhost:4317"]
    ran = subprocess.run(command, env=_environment(), capture_output=True, timeout=MANY_SECONDS, check=False, text=True)
    assert ran.returncode == 2
    assert "--tracing-endpoint" in ran.stderr


def test_stopping_is_bounded() -> None:
    """What a dead collector may add to the end of the process is far below the grace of a service manager."""
    assert STOP_SECONDS <= 5
