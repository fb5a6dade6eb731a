"""A small HTTP server on threads of its own, for the ports beside the gRPC port. Standard library only."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_READ_TIMEOUT: Final = 10.0
"""Seconds that a client may take to send its request or to read a part of the answer."""

_STOP_DELAY: Final = 0.1
"""Seconds that `stop` may take to be noticed."""

MAX_CONNECTIONS: Final = 64
"""Connections at one time; one more is closed unanswered."""


class _Handler(WSGIRequestHandler):
    timeout = _READ_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Logs no request: scrapes would drown everything else."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = 128  # 5, socketserver's own, makes callers that come together wait for seconds

    def __init__(self, address: tuple[str, int], purpose: str) -> None:
        self._purpose = purpose
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Binds without looking up the host's name, which may take long where there is no resolver."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers on a thread of its own, if there is room for one more."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Makes room again once the connection has ended."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what a connection ended with; clients that vanish are no news."""
        logging.getLogger(__name__).debug("%s connection failed", self._purpose, exc_info=True)


class HttpServer:
    """Serves one application."""

    def __init__(self, app: WSGIApplication, *, host: str, port: int, purpose: str) -> None:
        """Binds the port; nothing is answered before `start`.

        Args:
            app: what answers; called from the server's threads.
            host: name or address, IPv4 or IPv6.
            port: 0 takes a free one.
            purpose: one word for logs and thread names.

        Raises OSError if the port cannot be bound.
        """
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = type("_FamilyServer", (_Server,), {"address_family": family})
        self._server: WSGIServer = server((host, port), purpose)
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
