"""The gRPC server: options, services, health and reflection, and the port.

Order at start: every service NOT_SERVING, then the port is bound, then calls are taken; `set_serving(True)` once
models are loaded. Order at the end: `set_serving(False)`, drain the engine, `stop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.api.auth.interceptor import Authenticate
from imagegen_server.api.backend import Backend
from imagegen_server.api.generations import EdgeSettings
from imagegen_server.api.interceptors import AnswerUnknown, Guard, Metrics
from imagegen_server.api.listener import GrpcServer
from imagegen_server.api.observers import EdgeObserver, RpcObserver
from imagegen_server.api.quotas import Quotas
from imagegen_server.api.servicer import ImageGenServicer
from imagegen_server.api.tls import ServerTls
from imagegen_server.core import RpcMethod

SERVICE: Final[str] = pb.DESCRIPTOR.services_by_name["ImageGen"].full_name
HEALTH_SERVICES: Final = ("", SERVICE)
"""The names that health answers for: the whole server and the service."""
MAX_CONCURRENT_STREAMS: Final = 1000
"""Calls of one connection at a time; more wait at the client."""
MIN_PING_INTERVAL: Final = 10.0
"""Seconds between a client's own probes; one that asks more often is disconnected."""
MAX_CONNECTION_AGE_GRACE: Final = 3600.0
"""Seconds that calls of an aged connection may go on."""

HealthServicer: Any = health.aio.HealthServicer  # type: ignore[attr-defined] # public, but not marked as re-exported


@dataclass(kw_only=True, frozen=True, slots=True)
class ServerSettings:
    """How the gRPC server listens."""

    address: str = "127.0.0.1:50051"
    """host:port; port 0 lets the system choose."""
    health_address: str | None = None
    """host:port of a second port for probes, in plain text and with grpc.health.v1 alone; None for no such port."""
    max_receive_bytes: int = 1024 * 1024
    """Longest request message; a longer one is refused by the transport with RESOURCE_EXHAUSTED."""
    keepalive_time: float = 60.0
    """Seconds of silence after which a connection is probed."""
    keepalive_timeout: float = 20.0
    """Seconds after which an unanswered probe closes the connection, which cancels its calls."""
    max_connection_age: float | None = None
    """Seconds after which a connection is asked to reconnect, so that balancers can move it; None for never."""


async def create_server(
    backend: Backend,
    *,
    settings: ServerSettings,
    edge: EdgeSettings,
    rpc_observer: RpcObserver,
    edge_observer: EdgeObserver,
    tls: ServerTls | None = None,
    auth: Authenticate | None = None,
    quotas: Quotas | None = None,
) -> GrpcServer:
    """Returns a server that is bound and NOT_SERVING, and takes no calls yet.

    Without `tls` it speaks plain text, without `auth` it serves everybody, without `quotas` as much as they want.
    Raises `errors.StartupError` if an address cannot be bound.
    """
    health_servicer = HealthServicer()
    for service in HEALTH_SERVICES:
        await health_servicer.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    servicer = ImageGenServicer(backend, edge, edge_observer, quotas)
    metrics, guard, unknown = Metrics(rpc_observer), Guard(edge_observer), AnswerUnknown()
    for_probes = (metrics, guard, unknown)
    for_callers = for_probes if auth is None else (metrics, auth, guard, unknown)

    def make() -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=for_callers, options=_options(settings))
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        pb_grpc.add_ImageGenServicer_to_server(servicer, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    def make_probed() -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=for_probes, options=_options(settings))
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        return server

    async def set_serving(serving: bool) -> None:
        response = health_pb2.HealthCheckResponse
        for service in HEALTH_SERVICES:
            await health_servicer.set(service, response.SERVING if serving else response.NOT_SERVING)

    probed = None
    if settings.health_address is not None:
        probed = GrpcServer(
            make=make_probed, set_serving=set_serving, address=settings.health_address, observer=edge_observer
        )
    return GrpcServer(
        make=make,
        set_serving=set_serving,
        address=settings.address,
        observer=edge_observer,
        credentials=None if tls is None else tls.credentials,
        probed=probed,
        all_read=servicer.all_read,
    )


def served_methods() -> Sequence[RpcMethod]:
    """Returns every method that is served, as the observer will see them; for metrics that begin at 0."""
    reflected = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    services = (pb.DESCRIPTOR.services_by_name["ImageGen"], health_pb2.DESCRIPTOR.services_by_name["Health"], reflected)
    return [
        RpcMethod(
            type=RpcMethod.type_of(client_streaming=method.client_streaming, server_streaming=method.server_streaming),
            service=service.full_name,
            method=method.name,
        )
        for service in services
        for method in service.methods
    ]


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    options = [
        # two servers on one port would share its connections silently
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_receive_bytes),
        ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_time)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout)),
        # of gRPC's own probes as well, and what decides where it is longer: gRPC 1.8x never sets the shorter time
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(MIN_PING_INTERVAL)),
        # No header field refers to an earlier one: gRPC takes what was wrong with one for wrong in all that name it so,
        # and a proxy sends the calls of everybody over one connection.
        ("grpc.http2.hpack_table_size.decoder", 0),
    ]
    if settings.max_connection_age is not None:
        options += [
            ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(MAX_CONNECTION_AGE_GRACE)),
        ]
    return options


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
