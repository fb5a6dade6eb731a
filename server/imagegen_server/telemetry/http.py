"""The metrics port: `/metrics` for Prometheus, `/healthz` for who sends callers, `/livez` for who restarts servers."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CONTENT_TYPE_LATEST, make_wsgi_app
from prometheus_client.registry import CollectorRegistry

from imagegen_server.telemetry.exposition import Exposition

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_READ_TIMEOUT = 10.0
"""Seconds that a client may take to send its request or to read a part of the answer."""

_STOP_DELAY = 0.1
"""Seconds that `stop` may take to be noticed."""

SERVING = "serving"
"""The state in which generations are taken."""


class _Handler(WSGIRequestHandler):
    timeout = _READ_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Logs no request: scrapes would drown everything else."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = False

    def server_bind(self) -> None:
        """Binds without looking up the host's name, which may take long where there is no resolver."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what a connection ended with; clients that vanish are no news."""
        logging.getLogger(__name__).debug("metrics connection failed", exc_info=True)


class MetricsServer:
    """Serves a registry and a health state over HTTP, on threads of its own."""

    def __init__(self, registry: CollectorRegistry, state: Callable[[], str], *, host: str, port: int) -> None:
        """Binds the port; nothing is answered before `start`.

        Args:
            registry: what `/metrics` shows, in the text or the OpenMetrics form, as the client asks.
            state: what `/healthz` and `/livez` report; called from the server's threads.
            host: name or address, IPv4 or IPv6.
            port: 0 takes a free one.

        Raises OSError if the port cannot be bound.
        """
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = type("_FamilyServer", (_Server,), {"address_family": family})
        self._server: WSGIServer = server((host, port), _Handler)
        # uncompressed: on one host or one rack a scrape is cheaper to send than to compress
        self._server.set_app(_app(_metrics(registry), state))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_DELAY,), name="metrics-http", daemon=True
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


def _metrics(registry: CollectorRegistry) -> WSGIApplication:
    """Returns what answers scrapes: the library, where OpenMetrics or some names only are asked for."""
    library, exposition = make_wsgi_app(registry, disable_compression=True), Exposition(registry)

    def metrics(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        plain = environ["REQUEST_METHOD"] == "GET" and not environ.get("QUERY_STRING")
        if not plain or "openmetrics" in environ.get("HTTP_ACCEPT", ""):
            answer: Iterable[bytes] = library(environ, start_response)
            return answer
        text = exposition.text()
        start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(text)))])
        return [text]

    return metrics


def _app(metrics: WSGIApplication, state: Callable[[], str]) -> WSGIApplication:
    """Returns the application behind the port."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, head = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"] == "HEAD"
        if path == "/metrics":
            body = metrics({**environ, "REQUEST_METHOD": "GET"} if head else environ, start_response)
        else:
            healthy = HEALTH.get(path)
            status, answer = _NOT_FOUND if healthy is None else _health(environ["REQUEST_METHOD"], state, healthy)
            data = json.dumps(answer).encode() + b"\n"
            start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
            body = [data]
        return () if head else body

    return app


HEALTH: Mapping[str, Callable[[str], bool]] = {
    "/healthz": lambda state: state == SERVING,
    "/livez": lambda _: True,  # it loads, serves or drains: none is a reason to kill it
}
"""The paths that tell the state, and in which states they answer 200; 503 in the others."""

_NOT_FOUND = ("404 Not Found", {"error": "not found", "paths": ["/metrics", *HEALTH]})


def _health(method: str, state: Callable[[], str], healthy: Callable[[str], bool]) -> tuple[str, Mapping[str, object]]:
    """Returns the status and the body of a path that tells the state."""
    if method not in ("GET", "HEAD"):
        return "405 Method Not Allowed", {"error": "method not allowed"}
    current = state()
    return ("200 OK" if healthy(current) else "503 Service Unavailable"), {"state": current}
