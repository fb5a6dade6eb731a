"""Asks the server in the same container whether it serves: `python -m imagegen_server.probe`, for health checks.

It asks the gRPC health service, as a balancer would, at the port that the IMAGEGEN_* variables give the server: the
health port, or the gRPC port where that is plain text and there is no other. Exit status: 0 it serves, 1 it does not
(it loads, drains or cannot be reached), 2 wrong arguments or settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagegen_server import settings

SERVICE = "imagegen.v1.ImageGen"
"""The health service's name for generations."""
TIMEOUT = 3.0
"""Seconds for connecting and the answer."""
_ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - what to ask where a server listens on every address


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Runs the command line and returns the exit status.

    Args:
        argv: arguments without the program's name; the process's own if None.
        environ: the server's variables; the process's own if None.

    Raises SystemExit: 0 for --help, 2 for wrong arguments or variables.
    """
    parser = argparse.ArgumentParser(
        prog="python -m imagegen_server.probe", description="Asks whether a server serves."
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="where to ask; where the IMAGEGEN_* variables say, if not given"
    )
    parser.add_argument("--service", metavar="NAME", default=SERVICE, help="what to ask for (default: %(default)s)")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=TIMEOUT, help="(default: %(default)s)")
    chosen = parser.parse_args(argv)
    try:
        address = chosen.address or own_address(settings.parse([], environ))
    except ValueError as error:
        parser.error(str(error))
    healthy, answer = ask(address, chosen.service, chosen.timeout)
    sys.stdout.write(f"{address}: {answer}\n")
    return 0 if healthy else 1


def own_address(chosen: settings.Settings) -> str:
    """Returns host:port at which a server with these settings, on this machine, answers plain health checks.

    Raises ValueError if there is no such port.
    """
    if not chosen.health_port and chosen.tls_certificate is not None:
        raise ValueError("the gRPC port speaks TLS: give the server IMAGEGEN_HEALTH_PORT, or this program --address")
    host = _ANY.get(chosen.host, settings.bracketed(chosen.host))
    return f"{host}:{chosen.health_port or chosen.port}"


def ask(address: str, service: str, timeout: float) -> tuple[bool, str]:
    """Asks a server's health service once, over plain text.

    Args:
        address: host:port.
        service: what to ask for; empty for the whole server.
        timeout: seconds for connecting and the answer.

    Returns whether it serves, and the answer or the error in words.
    """
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            return False, f"{error.code().name}: {error.details()}"
    return answer.status == health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.ServingStatus.Name(
        answer.status
    )


if __name__ == "__main__":
    sys.exit(main())
