"""A gRPC server that listens again when grpc.aio gives up.

grpcio 1.84 and 1.85 decode the path of a call that no registered method matches as UTF-8 inside the accept loop of
grpc.aio. One call whose path is not UTF-8 therefore ends the loop and closes the port for everybody. Those versions
are not among those that the server asks for; where one is installed all the same, calls that run finish on the old
server and a new one listens. That makes up for an accident. Who repeats it keeps the port closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import grpc.aio

from imagegen_server import errors
from imagegen_server.api.observers import EdgeObserver

CHECK_INTERVAL: Final = 0.1
"""Seconds between two looks at whether the server still accepts calls."""
REBIND_INTERVAL: Final = 0.05
"""Seconds between two attempts to bind the port again; the old listener closes asynchronously."""
REPLACE_INTERVAL: Final = 1.0
"""Least seconds between two servers: each that broke keeps its memory, some 16 kB."""


class GrpcServer:
    """A bound server. Every method must be called on the event loop that made it."""

    def __init__(
        self,
        *,
        make: Callable[[], grpc.aio.Server],
        set_serving: Callable[[bool], Awaitable[None]],
        address: str,
        observer: EdgeObserver,
        credentials: Callable[[], grpc.ServerCredentials] | None = None,
        probed: GrpcServer | None = None,
        all_read: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Binds `address`, in plain text without `credentials`. Raises `errors.StartupError` if that cannot be done.

        `credentials` are made anew each time that the port is bound: gRPC takes no initial configuration from those of
        a listener that it has closed. `probed` is a server that starts and stops with this one: the port for probes.
        `all_read` returns once everything that is kept has been sent to those who read now.
        """
        self._make = make
        self._set_serving = set_serving
        self._observer = observer
        self._server = make()
        self._retired: set[asyncio.Task[None]] = set()
        # the library frees what its threads still use if a server goes whose accept loop broke: the process would crash
        self._broken: list[grpc.aio.Server] = []
        self._replaced = -REPLACE_INTERVAL
        self._watch: asyncio.Task[None] | None = None
        self._credentials = credentials
        self._all_read = all_read
        self.port = _bind(self._server, address, credentials)
        """The port that was bound."""
        self._address = _with_port(address, self.port)
        self._probed = probed

    @property
    def health_port(self) -> int | None:
        """The port for probes alone; None if there is none."""
        return None if self._probed is None else self._probed.port

    async def start(self) -> None:
        """Begins to take calls."""
        if self._probed is not None:
            await self._probed.start()
        await self._server.start()
        self._watch = asyncio.get_running_loop().create_task(self._keep_listening())

    async def set_serving(self, serving: bool) -> None:
        """Sets what health answers, for the server and the service."""
        await self._set_serving(serving)

    async def read_out(self, timeout: float) -> None:  # noqa: ASYNC109 # as in `Engine.wait_idle`
        """Waits, at most `timeout` seconds, until those who read what is kept have read it."""
        if self._all_read is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._all_read()

    async def stop(self, grace: float | None) -> None:
        """Stops taking calls and waits `grace` seconds for those that run, then cancels them; None cancels at once.

        An open health watch counts as a running call, so wait for generations by other means and keep `grace`
        short.
        """
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._server.stop(grace)
        for retired in tuple(self._retired):
            retired.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)
        if self._probed is not None:
            await self._probed.stop(grace)

    async def _keep_listening(self) -> None:
        while True:
            try:
                if not await self._server.wait_for_termination(CHECK_INTERVAL):
                    return
            except Exception as error:  # noqa: BLE001 # whatever ended the accept loop, the port must be served
                self._observer.bug("accept", "", error)
                await self._replace()

    async def _replace(self) -> None:
        """Lets the calls of the broken server finish, and listens with a new one, if need be after a while."""
        loop = asyncio.get_running_loop()
        self._broken.append(self._server)
        retired = loop.create_task(_retire(self._server))
        self._retired.add(retired)
        retired.add_done_callback(self._retired.discard)
        await asyncio.sleep(self._replaced + REPLACE_INTERVAL - loop.time())
        while True:
            server = self._make()
            try:
                _bind(server, self._address, self._credentials)
            except errors.StartupError:
                await asyncio.sleep(REBIND_INTERVAL)
                continue
            await server.start()
            self._server, self._replaced = server, loop.time()
            return


async def _retire(server: grpc.aio.Server) -> None:
    """Waits for the last call of a server that accepts no more, or until cancelled, and ends its connections."""
    try:
        with suppress(Exception):  # raised once its last call has ended: what broke it, which is known
            await server.wait_for_termination()
    finally:
        await server.stop(None)


def _bind(server: grpc.aio.Server, address: str, credentials: Callable[[], grpc.ServerCredentials] | None) -> int:
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials())
    except RuntimeError as error:
        raise errors.StartupError(f"cannot listen on {address}: the address is in use or not of this host") from error
    if port == 0:
        raise errors.StartupError(f"cannot listen on {address}")
    return port


def _with_port(address: str, port: int) -> str:
    """Returns the address with the port that the system chose, if it was asked to."""
    host, colon, asked = address.rpartition(":")
    return f"{host}:{port}" if colon and asked == "0" else address
