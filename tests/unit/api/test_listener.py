"""What the port does when the accept loop of grpc.aio breaks, as grpcio 1.84 and 1.85 let any caller do."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import trustme

from imagegen_server.api import ServerTls
from imagegen_server.api.listener import REPLACE_INTERVAL, GrpcServer
from support.certificates import tls_channel, write
from support.edge import Recorder

ROUNDS = 2


class Fragile:
    """A real server whose accept loop can be broken: its port closes and waiting for it raises."""

    def __init__(self) -> None:
        self.real: Any = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.broken = False
        self.started = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def start(self) -> None:
        self.started = asyncio.get_running_loop().time()
        await self.real.start()

    async def break_down(self) -> None:
        """Does what a path that is not UTF-8 does."""
        await self.real.stop(None)
        self.broken = True

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 # as grpc.aio's
        if self.broken:
            raise UnicodeDecodeError("utf-8", b"/\xff", 1, 2, "invalid start byte")
        await asyncio.sleep(timeout or 0)
        return True


class Listening:
    """A port whose servers are fragile."""

    def __init__(self, credentials: Callable[[], grpc.ServerCredentials] | None = None) -> None:
        self.servers: list[weakref.ref[Fragile]] = []
        self.seen = Recorder()
        self.listener = GrpcServer(
            make=self._make,
            set_serving=self._set_serving,
            address="127.0.0.1:0",
            observer=self.seen,
            credentials=credentials,
        )

    def _make(self) -> Any:
        server = Fragile()
        self.servers.append(weakref.ref(server))
        return server

    async def _set_serving(self, serving: bool) -> None: ...

    async def break_down(self) -> None:
        """Breaks the server that listens."""
        last = self.servers[-1]()
        assert last is not None
        await last.break_down()


async def test_a_broken_server_is_replaced_kept_and_not_too_often() -> None:
    """The port is taken again, once a second at most, and no server that broke is freed: the library would crash."""
    port = Listening()
    await port.listener.start()
    for _ in range(ROUNDS):
        await port.break_down()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.listener.port}") as channel:
            await channel.channel_ready()
    gc.collect()
    kept = [server() for server in port.servers]
    began = [server.started for server in kept if server is not None and server.started]
    assert len(began) == ROUNDS + 1
    assert all(later - earlier >= REPLACE_INTERVAL for earlier, later in itertools.pairwise(began[1:]))
    assert [method for method, _, _ in port.seen.bugs] == ["accept"] * ROUNDS
    await port.listener.stop(None)


async def test_a_port_with_tls_is_opened_again_with_its_certificate(tmp_path: Path) -> None:
    """As often as it takes; and a changed certificate is used."""
    authority = trustme.CA()
    certificate, key = write(authority.issue_cert("localhost"), tmp_path)
    port = Listening(ServerTls(certificate, key).credentials)
    await port.listener.start()
    for _ in range(ROUNDS):
        await port.break_down()
        async with tls_channel(port.listener.port, authority) as channel:
            await channel.channel_ready()
        authority = trustme.CA()
        write(authority.issue_cert("localhost"), tmp_path)
    await port.listener.stop(None)


async def test_whoever_reads_is_waited_for_and_not_for_ever() -> None:
    """The end of the server has a time, which one that never reads does not change."""
    read = asyncio.Event()

    async def all_read() -> None:
        await read.wait()

    listener = GrpcServer(
        make=grpc.aio.server, set_serving=_ignore, address="127.0.0.1:0", observer=Recorder(), all_read=all_read
    )
    await listener.read_out(0.01)
    waiting = asyncio.create_task(listener.read_out(60))
    await asyncio.sleep(0)
    assert not waiting.done()
    read.set()
    await waiting
    await listener.stop(None)


async def _ignore(serving: bool) -> None: ...
