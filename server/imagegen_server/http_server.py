"""A small HTTP server on threads of its own, for the ports beside the gRPC port. Standard library only."""

from __future__ import annotations

import io
import logging
import socket
import socketserver
import threading
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

PATIENCE: Final = 10.0
"""Seconds that a client may take to send the whole of its request, or to read a slice of the answer."""
LEAST_RATE: Final = 16 * 1024
"""Bytes a second that a client must read on the whole; it has `PATIENCE` to begin with."""
MAX_CONNECTIONS: Final = 64
"""Connections at one time. One more takes the place of that which has sent no request for longest, or is closed."""
_SLICE: Final = 64 * 1024
"""Bytes that are written at one time."""
_LONGEST_LINE: Final = 65_536
"""Bytes of a request's line, as in the standard library."""
_STOP_DELAY: Final = 0.1
"""Seconds that `stop` may take to be noticed."""


class _Reader(io.RawIOBase):
    """What a client sends, until a time."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection = connection
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        _allow(self._connection, self._until - time.monotonic())
        return self._connection.recv_into(buffer)


class _Writer(io.BufferedIOBase):
    """Writes to a client that reads slowly but steadily."""

    def __init__(self, connection: socket.socket, patience: float, least_rate: float) -> None:
        self._connection = connection
        self._patience = patience
        self._least_rate = least_rate
        self._until: float | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Returns once all was sent. Raises TimeoutError if the client reads too slowly."""
        until = time.monotonic() + self._patience if self._until is None else self._until
        with memoryview(data) as view:
            for start in range(0, view.nbytes, _SLICE):
                part = view[start : start + _SLICE]
                _allow(self._connection, min(until - time.monotonic(), self._patience))
                self._connection.sendall(part)
                until += part.nbytes / self._least_rate
            self._until = until
            return view.nbytes


def _allow(connection: socket.socket, seconds: float) -> None:
    """Lets the next operation take so long. Raises TimeoutError if there is no time left."""
    if seconds <= 0:
        raise TimeoutError("timed out")
    connection.settimeout(seconds)


class _Answer(ServerHandler):
    request_handler: WSGIRequestHandler

    def log_exception(self, exc_info: Any) -> None:
        """Logs what ended an answer; clients that read too slowly are no news."""
        level = logging.DEBUG if isinstance(exc_info[1], OSError) else logging.ERROR
        logging.getLogger(__name__).log(level, "answer failed", exc_info=exc_info)


class _Handler(WSGIRequestHandler):
    server: _Server

    def setup(self) -> None:
        """Takes time: that for the request begins now."""
        self.connection = self.request
        limits = self.server.limits
        self.rfile = io.BufferedReader(_Reader(self.connection, time.monotonic() + limits[0]))
        self.wfile = _Writer(self.connection, *limits)

    def handle(self) -> None:
        """Answers one request."""
        self.raw_requestline = self.rfile.readline(_LONGEST_LINE + 1)
        if len(self.raw_requestline) > _LONGEST_LINE:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
        elif self.parse_request() and self.server.answers(self.request):
            out = cast("IO[bytes]", self.wfile)  # write and flush are all that is used
            answer = _Answer(self.rfile, out, self.get_stderr(), self.get_environ(), multithread=False)
            answer.request_handler = self
            answer.run(cast("WSGIApplication", self.server.get_app()))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Logs no request: scrapes would drown everything else."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = 128  # 5, socketserver's own, makes callers that come together wait for seconds

    def __init__(self, address: tuple[str, int], purpose: str, limits: tuple[float, float]) -> None:
        self._purpose = purpose
        self.limits = limits
        """Patience and least rate."""
        self._lock = threading.Lock()
        self._silent: dict[socket.socket, None] = {}
        """Those whose request has not come, the oldest first."""
        self._answered: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Binds without looking up the host's name, which may take long where there is no resolver."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers on a thread of its own, if there is room for one more or can be made."""
        if self._takes(request):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def _takes(self, request: socket.socket) -> bool:
        """Returns whether there is room for one more; ends the connection that is silent for longest, if need be."""
        with self._lock:
            if len(self._silent) + len(self._answered) >= MAX_CONNECTIONS:
                if not self._silent:
                    return False
                oldest = next(iter(self._silent))
                del self._silent[oldest]
                with suppress(OSError):  # its client has gone
                    oldest.shutdown(socket.SHUT_RDWR)  # which its thread sees at once
            self._silent[request] = None
            return True

    def answers(self, request: socket.socket) -> bool:
        """Returns whether a request that has come is answered: unless its connection had to make room."""
        with self._lock:
            if request not in self._silent:
                return False
            del self._silent[request]
            self._answered.add(request)
            return True

    def shutdown_request(self, request: Any) -> None:
        """Makes room again as the connection ends."""
        with self._lock:
            self._silent.pop(request, None)
            self._answered.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what a connection ended with; clients that vanish are no news."""
        logging.getLogger(__name__).debug("%s connection failed", self._purpose, exc_info=True)


class HttpServer:
    """Serves one application."""

    def __init__(
        self,
        app: WSGIApplication,
        *,
        host: str,
        port: int,
        purpose: str,
        patience: float = PATIENCE,
        least_rate: float = LEAST_RATE,
    ) -> None:
        """Binds the port; nothing is answered before `start`.

        Args:
            app: what answers; called from the server's threads.
            host: name or address, IPv4 or IPv6.
            port: 0 takes a free one.
            purpose: one word for logs and thread names.
            patience: seconds that a client may take to send its request, or to read a slice of the answer.
            least_rate: bytes a second that it must read on the whole.

        Raises OSError if the port cannot be bound.
        """
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = type("_FamilyServer", (_Server,), {"address_family": family})
        self._server: WSGIServer = server((host, port), purpose, (patience, least_rate))
        self._server.set_app(app)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_DELAY,), name=f"{purpose}-http", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that was bound."""
        return self._server.server_port

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stops answering and frees the port; answers under way are cut off when the process ends."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
