"""A TCP proxy on loopback whose connections a test can cut off or silence, as networks do: without a word of HTTP/2."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

Result = TypeVar("Result")


class CuttingProxy:
    """Forwards connections to `port` until they are cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._silent: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        """Where it listens."""
        self.connections = 0
        """Accepted so far."""
        self.refusing = False
        """Whether new connections are cut at once."""

    @property
    def target(self) -> str:
        """host:port of the proxy."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Resets every connection there is."""
        self._call(self._reset())

    def silence(self) -> None:
        """Forwards nothing more on the connections there are, and leaves them open. Later ones are forwarded."""
        self._call(self._mute())

    def close(self) -> None:
        """Cuts everything and ends."""
        try:
            self._call(self._finish())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _reset(self) -> None:
        for pair in tuple(self._pairs):
            for writer in pair:
                _abort(writer)

    async def _mute(self) -> None:
        self._silent |= self._pairs

    async def _finish(self) -> None:
        """Takes no more connections, cuts those there are, and waits for them to be done."""
        self._server.close()  # here: a connection that ends in another thread meanwhile would find it half closed
        await self._reset()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            _abort(writer)
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        pair = (writer, far_writer)
        self._pairs.add(pair)

        def silent() -> bool:
            return pair in self._silent

        await asyncio.gather(_pump(reader, far_writer, silent), _pump(far_reader, writer, silent))
        self._pairs.discard(pair)
        self._silent.discard(pair)
        for end in pair:
            end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: Callable[[], bool]) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            if silent():
                continue
            writer.write(data)
            await writer.drain()
    _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Resets a connection: the peer gets RST, not FIN."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def cutting_proxy(port: int) -> Iterator[CuttingProxy]:
    """Yields a proxy in front of `port`."""
    proxy = CuttingProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
