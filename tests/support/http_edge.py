"""Callers of the HTTP edge: JSON, gRPC-Web by hand, and a server with its images behind an Envoy."""

from __future__ import annotations

import contextlib
import http.client
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from imagegen_server.child import free_port
from imagegen_server.http_edge.configure import Edge
from imagegen_server.http_edge.envoy import Envoy, EnvoyDidNotStart, envoy, program
from support.http import Answer, fetch
from support.live_server import LiveServer, live_server
from support.needs import lacking

JSON: Final = {"Content-Type": "application/json"}
TRAILERS: Final = 0x80
"""Flag of a gRPC-Web frame that holds trailers."""


def post(url: str, body: object, **headers: str) -> Answer:
    """Returns the answer to a JSON body; `headers` with underscores for hyphens."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(url, "POST", json.dumps(body).encode(), JSON | more)


@dataclass(kw_only=True, frozen=True, slots=True)
class WebCall:
    """A gRPC-Web call that has ended."""

    messages: list[bytes]
    trailers: Mapping[str, str]

    @property
    def code(self) -> int:
        """The gRPC status."""
        return int(self.trailers["grpc-status"])

    @property
    def message(self) -> str:
        """What the status says."""
        return unquote(self.trailers.get("grpc-message", ""))


def web_call(edge: str, method: str, request: Message) -> WebCall:
    """Makes a gRPC-Web call of the service as a browser does, with fetch instead of frames that were asked for.

    Format: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md
    """
    message = request.SerializeToString()
    headers = {"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"}
    url = f"{edge}/imagegen.v1.ImageGen/{method}"
    answer = fetch(url, "POST", b"\0" + struct.pack(">I", len(message)) + message, headers)
    assert answer.status == http.client.OK
    assert answer.headers["content-type"] == "application/grpc-web+proto"
    messages, trailers, rest = [], dict(answer.headers), answer.body
    while rest:
        flag, length = struct.unpack(">BI", rest[:5])
        part, rest = rest[5 : 5 + length], rest[5 + length :]
        if flag & TRAILERS:
            lines = (line.partition(":") for line in part.decode().splitlines())
            trailers |= {name.lower(): value.strip() for name, _, value in lines}
        else:
            messages.append(part)
    return WebCall(messages=messages, trailers=trailers)


def needs_envoy() -> None:
    """Skips the test if there is no Envoy for this system; fails it under CI."""
    try:
        program()
    except EnvoyDidNotStart as error:
        lacking(str(error))


@contextlib.contextmanager
def served_over_http(directory: Path, *arguments: str, model: str = "fake") -> Iterator[tuple[LiveServer, Envoy]]:
    """Starts a server that keeps its images, and an Envoy in front of it, whose URL the images have."""
    needs_envoy()
    port = free_port()
    store = ("--store", str(directory / "images"), "--images-port", "0")
    base = ("--image-url-base", f"http://127.0.0.1:{port}/images")
    with (
        live_server(directory, *store, *base, *arguments, model=model) as server,
        in_front_of(server, port=port) as edge,
    ):
        yield server, edge


@contextlib.contextmanager
def in_front_of(*servers: LiveServer | str, port: int | None = None) -> Iterator[Envoy]:
    """Starts an Envoy in front of servers, or of gRPC ports at host:port; it asks for health 5 times a second."""
    needs_envoy()
    edge = Edge(
        listen=f"127.0.0.1:{port or free_port()}",
        servers=[each if isinstance(each, str) else each.address for each in servers],
        images=[f"127.0.0.1:{each.images_port}" for each in servers if not isinstance(each, str) and each.images_port],
        health_interval=0.2,
    )
    with envoy(edge) as found:
        yield found


def status_of(code: int, message: str) -> status_pb2.Status:
    """Returns a status with the details that every status of the server has."""
    status = status_pb2.Status(code=code, message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain="imagegen.v1", reason="SCRIPTED"))
    return status
