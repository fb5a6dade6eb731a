"""The probe tells a container's health check what the gRPC health service says, in its exit status."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from imagegen_server import probe, settings
from imagegen_server.api.server import HEALTH_SERVICES
from support.ports import closed_port

Status = health_pb2.HealthCheckResponse
TLS_ONLY = {"IMAGEGEN_TLS_CERTIFICATE": "tls.crt", "IMAGEGEN_TLS_KEY": "tls.key"}


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[Any, int]]:
    """A health service, and the port that it is on."""
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, port
    server.stop(None).wait()


def test_it_asks_for_the_service_that_the_server_answers_for() -> None:
    """The name is that of the contract."""
    assert probe.SERVICE in HEALTH_SERVICES


@pytest.mark.parametrize(("status", "expected"), [("SERVING", 0), ("NOT_SERVING", 1), ("UNKNOWN", 1)])
def test_the_exit_status_is_the_answer(
    asked: tuple[Any, int], capsys: pytest.CaptureFixture[str], status: str, expected: int
) -> None:
    """Only SERVING is healthy; the port is that of the server's variables, and what it said is printed."""
    servicer, port = asked
    servicer.set(probe.SERVICE, Status.ServingStatus.Value(status))
    assert probe.main([], {"IMAGEGEN_PORT": str(port), "IMAGEGEN_HOST": "0.0.0.0"}) == expected  # noqa: S104
    assert capsys.readouterr().out == f"127.0.0.1:{port}: {status}\n"


def test_a_service_that_is_not_there_is_not_healthy(asked: tuple[Any, int], capsys: pytest.CaptureFixture[str]) -> None:
    """The server's refusal is printed."""
    assert probe.main(["--address", f"127.0.0.1:{asked[1]}", "--service", "else"], {}) == 1
    assert "NOT_FOUND" in capsys.readouterr().out


def test_nobody_there_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    """A closed port is told at once."""
    with closed_port() as port:
        assert probe.main(["--address", f"127.0.0.1:{port}"], {}) == 1
    assert "UNAVAILABLE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1:50051"), ("::", "[::1]:50051"), ("::1", "[::1]:50051"), ("here", "here:50051")],  # noqa: S104
)
def test_it_asks_where_the_server_listens(host: str, address: str) -> None:
    """On every address means on loopback too; an IPv6 address is put in brackets."""
    assert probe.own_address(settings.parse(["--host", host], {})) == address


def test_it_prefers_the_port_for_probes() -> None:
    """The health port is asked where there is one, whatever the gRPC port speaks."""
    for variables in ({}, TLS_ONLY):
        chosen = settings.parse([], {"IMAGEGEN_HEALTH_PORT": "50052"} | variables)
        assert probe.own_address(chosen) == "127.0.0.1:50052"


@pytest.mark.parametrize(
    ("argv", "environ"),
    [(["--wait"], {}), ([], {"IMAGEGEN_PORT": "many"}), ([], TLS_ONLY)],
    ids=["flag", "value", "tls"],
)
def test_a_wrong_call_is_neither(argv: list[str], environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments and variables, and a server that has no plain port, end with 2 and say what is wrong."""
    with pytest.raises(SystemExit) as ended:
        probe.main(argv, environ)
    assert ended.value.code == 2
    assert capsys.readouterr().err
