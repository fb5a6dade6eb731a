"""Mutual TLS: who gets in, and files that are replaced while calls go on."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.api import Authenticate, Authenticator, ServerTls, parse_policy
from imagegen_server.errors import StartupError
from support.certificates import tls_channel, write
from support.edge import Edge, Recorder, running_edge
from support.waiting import until

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
LONG_AGO = datetime.datetime(2019, 1, 1, tzinfo=datetime.UTC)


class Parties:
    """The authorities, and a server that knows them."""

    def __init__(self, directory: Path) -> None:
        self.servers, self.clients, self.strangers = trustme.CA(), trustme.CA(), trustme.CA()
        self.directory = directory
        self.certificate, self.key = write(self.servers.issue_cert("localhost"), directory)
        self.client_ca = directory / "clients.pem"
        self.client_ca.write_bytes(self.clients.cert_pem.bytes())
        self.heard: list[str] = []
        self.tls = ServerTls(self.certificate, self.key, self.heard.append, client_ca=self.client_ca)


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    """New ones."""
    return Parties(tmp_path)


@pytest.fixture
async def edge(parties: Parties) -> AsyncIterator[Edge]:
    """A server that wants client certificates, and takes their names for the callers'."""

    def auth(seen: Recorder) -> Authenticate:
        return Authenticate(Authenticator(certificates=True), parse_policy("", authenticates=True), seen)

    async with running_edge(tls=parties.tls, auth=auth) as edge:
        yield edge


async def answer(channel: grpc.aio.Channel, seconds: float = 30) -> grpc.StatusCode:
    """Returns what a new connection's call ends with."""
    async with channel:
        try:
            await pb_grpc.ImageGenStub(channel).ListModels(pb.ListModelsRequest(), timeout=seconds)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_who_gets_in(edge: Edge, parties: Parties) -> None:
    """A client of the right authority does. Each of the wrong ones is refused: on its own side or on the server's."""
    mine = parties.clients.issue_cert("alice.example")
    port, servers = edge.port, parties.servers
    assert await answer(tls_channel(port, servers, mine)) is grpc.StatusCode.OK
    expired = parties.clients.issue_cert("alice.example", not_before=LONG_AGO, not_after=PAST)
    refused = {
        "trusts another authority": tls_channel(port, parties.strangers, mine),
        "shows no certificate": tls_channel(port, servers),
        "shows a stranger's certificate": tls_channel(port, servers, parties.strangers.issue_cert("alice.example")),
        "shows one of the server's authority": tls_channel(port, servers, servers.issue_cert("alice.example")),
        "shows an expired certificate": tls_channel(port, servers, expired),
        "wants another host": tls_channel(port, servers, mine, host="127.0.0.1"),
        "speaks plain text": grpc.aio.insecure_channel(f"localhost:{port}"),
    }
    codes = {kind: await answer(channel) for kind, channel in refused.items()}
    assert set(codes.values()) == {grpc.StatusCode.UNAVAILABLE}, codes
    assert await answer(tls_channel(port, servers, mine)) is grpc.StatusCode.OK
    assert edge.seen.bugs == []


async def test_an_expired_server_is_refused(parties: Parties) -> None:
    """By the client, though everything else is right."""
    write(parties.servers.issue_cert("localhost", not_before=LONG_AGO, not_after=PAST), parties.directory)
    async with running_edge(tls=ServerTls(parties.certificate, parties.key, client_ca=parties.client_ca)) as edge:
        mine = parties.clients.issue_cert("alice.example")
        assert await answer(tls_channel(edge.port, parties.servers, mine)) is grpc.StatusCode.UNAVAILABLE


async def test_the_name_in_the_certificate_is_the_tenant(edge: Edge, parties: Parties) -> None:
    """The generation is that tenant's; a certificate that names nobody is not enough."""
    mine = parties.clients.issue_cert("alice.example")
    async with tls_channel(edge.port, parties.servers, mine) as channel:
        call = pb_grpc.ImageGenStub(channel).GenerateImage(pb.GenerateImageRequest(prompt="a cat"))
        assert [message async for message in call]
    assert edge.engine.requests[-1].tenant == "alice.example"
    nobody = parties.clients.issue_cert("10.0.0.1")
    code = await answer(tls_channel(edge.port, parties.servers, nobody))
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_files_are_replaced_under_load_and_no_call_is_lost(edge: Edge, parties: Parties) -> None:
    """Calls of open connections and of new ones go on while certificate, key and client authority change."""
    calls, stop, failures = [0], asyncio.Event(), list[str]()
    old_clients, new_clients = parties.clients, trustme.CA()
    mine, theirs = old_clients.issue_cert("alice.example"), new_clients.issue_cert("alice.example")

    async def check(channel: grpc.aio.Channel) -> None:
        calls[0] += 1
        try:
            await pb_grpc.ImageGenStub(channel).ListModels(pb.ListModelsRequest(), timeout=30)
        except grpc.aio.AioRpcError as error:
            failures.append(repr(error))

    async def keep_calling() -> None:
        async with tls_channel(edge.port, parties.servers, mine) as channel:
            while not stop.is_set():
                await check(channel)

    async def keep_connecting() -> None:
        while not stop.is_set():
            async with tls_channel(edge.port, parties.servers, mine) as channel:
                await check(channel)

    async def more_calls() -> None:
        seen = calls[0]
        await until(lambda: calls[0] > seen + 20)

    async def reloads(number: int) -> None:
        await until(lambda: parties.heard.count("reloaded") == number)

    async with asyncio.TaskGroup() as tasks:
        for work in (keep_calling, keep_calling, keep_calling, keep_connecting, keep_connecting):
            tasks.create_task(work())
        await more_calls()
        both = old_clients.cert_pem.bytes() + new_clients.cert_pem.bytes()
        parties.client_ca.write_bytes(both[: len(both) - 100])  # a writer that is half way
        await until(lambda: any("ends within a PEM block" in text for text in parties.heard))
        await more_calls()
        parties.client_ca.write_bytes(both)
        await reloads(1)
        for number in range(2, 5):
            renewed = parties.servers.issue_cert("localhost")
            parties.certificate.write_bytes(renewed.cert_chain_pems[0].bytes())
            await more_calls()  # with a key that does not fit
            parties.key.write_bytes(renewed.private_key_pem.bytes())
            await reloads(number)
            await more_calls()
        assert await answer(tls_channel(edge.port, parties.servers, theirs)) is grpc.StatusCode.OK
        stop.set()
    assert failures == []
    assert parties.heard.count("reloaded") == 4
    parties.client_ca.write_bytes(new_clients.cert_pem.bytes())
    assert await answer(tls_channel(edge.port, parties.servers, mine)) is grpc.StatusCode.UNAVAILABLE
    assert await answer(tls_channel(edge.port, parties.servers, theirs)) is grpc.StatusCode.OK


def test_authorities_that_cannot_be_used_are_refused_at_the_start(parties: Parties) -> None:
    """No file, no PEM, and a file that is cut off."""
    broken = parties.directory / "broken.pem"
    whole = parties.client_ca.read_bytes()
    for content in (b"", b"nonsense", whole[:-100], whole + whole[:-100]):
        broken.write_bytes(content)
        with pytest.raises(StartupError, match=r"broken\.pem (has no PEM certificates|ends within a PEM block)"):
            ServerTls(parties.certificate, parties.key, client_ca=broken)
    broken.write_bytes(parties.certificate.read_bytes() + whole[:-100])
    with pytest.raises(StartupError, match=r"broken\.pem ends within a PEM block"):
        ServerTls(broken, parties.key)
    with pytest.raises(StartupError, match="No such file"):
        ServerTls(parties.certificate, parties.key, client_ca=parties.directory / "none")


async def test_probes_have_a_plain_port_of_their_own(parties: Parties) -> None:
    """It tells what the main port tells, and has nothing else."""
    async with running_edge(tls=parties.tls, health_address="127.0.0.1:0") as edge:
        assert edge.server.health_port not in (None, edge.port)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.server.health_port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for serving in (True, False):
                await edge.server.set_serving(serving)
                told = await health.Check(health_pb2.HealthCheckRequest(service="imagegen.v1.ImageGen"))
                expected = "SERVING" if serving else "NOT_SERVING"
                assert health_pb2.HealthCheckResponse.ServingStatus.Name(told.status) == expected
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await pb_grpc.ImageGenStub(channel).ListModels(pb.ListModelsRequest())
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
