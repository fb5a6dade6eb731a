"""Start, health, reflection and the port."""

from __future__ import annotations

import socket

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imagegen_server import errors
from imagegen_server.api import (
    SERVICE,
    EdgeSettings,
    GrpcServer,
    ServerSettings,
    StreamSettings,
    create_server,
)
from support.edge import Edge, Recorder, drained, refusal
from support.scripted_engine import ScriptedBackend, ScriptedEngine

Response = health_pb2.HealthCheckResponse


async def create(address: str = "127.0.0.1:0", **settings: float) -> GrpcServer:
    """Returns a bound server that has not been started."""
    return await create_server(
        ScriptedBackend(ScriptedEngine()),
        settings=ServerSettings(address=address, **settings),  # type: ignore[arg-type] # numbers only
        edge=EdgeSettings(),
        rpc_observer=Recorder(),
        edge_observer=Recorder(),
    )


async def health(channel: grpc.aio.Channel, service: str) -> int:
    """Returns what health answers for a service."""
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def test_server_starts_not_serving() -> None:
    """Health is NOT_SERVING from the first call that can be made until the owner says otherwise."""
    server = await create()
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert [await health(channel, name) for name in ("", SERVICE)] == [Response.NOT_SERVING] * 2
    await server.stop(None)


async def test_health_follows_set_serving(edge: Edge) -> None:
    """The whole server and the service change together; a watcher is told."""
    watch = health_pb2_grpc.HealthStub(edge.channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == Response.SERVING
    await edge.server.set_serving(False)
    assert (await watch.read()).status == Response.NOT_SERVING
    assert await health(edge.channel, "") == Response.NOT_SERVING
    watch.cancel()


async def test_unknown_service_is_not_found(edge: Edge) -> None:
    """Health of a service that is not served is NOT_FOUND, as its protocol wants."""
    error = await refusal(health(edge.channel, "nope"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(edge: Edge) -> None:
    """A generic client finds the contract."""
    stub = reflection_pb2_grpc.ServerReflectionStub(edge.channel)
    (answer,) = await drained(
        stub.ServerReflectionInfo(iter((reflection_pb2.ServerReflectionRequest(list_services=""),)))
    )
    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_port_in_use_is_a_startup_error(edge: Edge) -> None:
    """A second server on the same port does not share it silently."""
    with pytest.raises(errors.StartupError, match=str(edge.port)):
        await create(f"127.0.0.1:{edge.port}")


async def test_address_of_another_host_is_a_startup_error() -> None:
    """An address that cannot be bound is reported with the address."""
    with pytest.raises(errors.StartupError, match=r"192\.0\.2\.1"):
        await create("192.0.2.1:50051")


async def test_stopped_server_frees_its_port() -> None:
    """After stop the port can be bound by anybody."""
    server = await create(max_connection_age=60.0)
    await server.start()
    await server.stop(None)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", server.port))
        assert free.getsockname()[1] == server.port


@pytest.mark.parametrize("wrong", [{"chunk_bytes": 0}, {"chunk_bytes": 5_000_000}, {"send_timeout": 0.0}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    """A chunk must fit a stock client, and a timeout must be one."""
    with pytest.raises(errors.StartupError):
        StreamSettings(**wrong)  # type: ignore[arg-type] # numbers only
