"""The metrics port: `/metrics` for Prometheus, `/healthz` for who sends callers, `/livez` for who restarts servers."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, make_wsgi_app
from prometheus_client.registry import CollectorRegistry

from imagegen_server.errors import StartupError
from imagegen_server.http_server import HttpServer
from imagegen_server.telemetry.exposition import Exposition

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SERVING = "serving"
"""The state in which generations are taken."""


class MetricsServer(HttpServer):
    """Serves a registry and a health state over HTTP, on threads of its own."""

    def __init__(
        self,
        registry: CollectorRegistry,
        state: Callable[[], str],
        *,
        host: str,
        port: int,
        token_file: Path | None = None,
    ) -> None:
        """Binds the port; nothing is answered before `start`.

        Args:
            registry: what `/metrics` shows, in the text or the OpenMetrics form, as the client asks.
            state: what `/healthz` and `/livez` report; called from the server's threads.
            host: name or address, IPv4 or IPv6.
            port: 0 takes a free one.
            token_file: a file with the bearer token that scrapes must show, read each time; None lets everybody scrape.

        Raises OSError if the port cannot be bound, and StartupError if there is no token in the file.
        """
        if token_file is not None:
            _require_token(token_file)
        # uncompressed: on one host or one rack a scrape is cheaper to send than to compress
        super().__init__(_app(_guarded(_metrics(registry), token_file), state), host=host, port=port, purpose="metrics")


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


def _token(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _require_token(path: Path) -> None:
    try:
        found = _token(path)
    except (OSError, ValueError) as error:
        raise StartupError(f"the token for metrics cannot be read: {error}") from error
    if not found:
        raise StartupError(f"the token for metrics cannot be read: {path} is empty")
    if not found.isascii() or not found.isprintable() or " " in found:
        raise StartupError(f"the token for metrics in {path} is not one word of ASCII, which no header can carry")


def _guarded(metrics: WSGIApplication, token_file: Path | None) -> WSGIApplication:
    """Returns an application that answers whoever shows the token in the file."""
    if token_file is None:
        return metrics
    path = token_file

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        scheme, _, shown = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        try:
            token = _token(path)
        except (OSError, ValueError):
            token = ""  # lets nobody in
        if token and scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), token.encode()):
            return metrics(environ, start_response)
        body = b'{"error": "a bearer token is needed"}\n'
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("401 Unauthorized", [*headers, ("WWW-Authenticate", "Bearer")])
        return [body]

    return guarded


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
