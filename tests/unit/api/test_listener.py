"""What the port does when the accept loop of grpc.aio breaks, as grpcio 1.84 and 1.85 let any caller do."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from typing import Any

import grpc
import grpc.aio

from imagegen_server.api.listener import REPLACE_INTERVAL, GrpcServer
from support.edge import Recorder

ROUNDS = 3


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


async def test_a_broken_server_is_replaced_kept_and_not_too_often() -> None:
    """The port is taken again, once a second at most, and no server that broke is freed: the library would crash."""
    servers: list[weakref.ref[Fragile]] = []
    seen = Recorder()

    def make() -> Any:
        server = Fragile()
        servers.append(weakref.ref(server))
        return server

    async def set_serving(_: bool) -> None: ...

    async def break_the_last() -> None:
        last = servers[-1]()
        assert last is not None
        await last.break_down()

    listener = GrpcServer(make=make, set_serving=set_serving, address="127.0.0.1:0", observer=seen)
    await listener.start()
    for _ in range(ROUNDS):
        await break_the_last()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
            await channel.channel_ready()
    gc.collect()
    kept = [server() for server in servers]
    began = [server.started for server in kept if server is not None and server.started]
    assert len(began) == ROUNDS + 1
    assert all(later - earlier >= REPLACE_INTERVAL for earlier, later in itertools.pairwise(began[1:]))
    assert [method for method, _, _ in seen.bugs] == ["accept"] * ROUNDS
    await listener.stop(None)
