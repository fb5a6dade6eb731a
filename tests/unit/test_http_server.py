"""The HTTP ports among clients that are slow, silent, or too many."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from imagegen_server.http_server import MAX_CONNECTIONS, HttpServer
from imagegen_server.telemetry import configure
from support.http import get
from support.waiting import eventually

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

BODY = bytes(range(256)) * 32 * 1024
"""8 MiB: more than the buffers of a connection take."""


class App:
    """Answers `/` at once, `/body` with a long body, `/hold` when it is let go, and `/fail` not at all."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.held = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/fail":
            raise ValueError("a bug")
        if path == "/hold":
            self.held += 1
            self.let_go.wait()
        body = BODY if path == "/body" else b"ok"
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


@contextmanager
def serving(app: App | None = None, **limits: float) -> Iterator[int]:
    """Yields the port of a server."""
    server = HttpServer(app or App(), host="127.0.0.1", port=0, purpose="test", **limits)
    server.start()
    yield server.port
    server.stop()


def opened(port: int, sent: bytes) -> socket.socket:
    """Returns a connection on which something was sent; it takes little ahead of what is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", port))
    connection.sendall(sent)
    return connection


def read(connection: socket.socket, pace: Callable[[], object] = lambda: None) -> bytes:
    """Returns what comes until the server ends the connection, read piece by piece at a pace."""
    parts = []
    with connection, suppress(ConnectionResetError):
        while part := connection.recv(64 * 1024):
            parts.append(part)
            pace()
    return b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nX: "])
def test_silent_connections_keep_nobody_out(sent: bytes) -> None:
    """However many have begun no request, or not ended it, the next one is answered."""
    with serving() as port:
        silent = [opened(port, sent) for _ in range(MAX_CONNECTIONS + 5)]
        for _ in range(10):
            assert get(port, "/").status == 200
        assert read(silent[0]) == b"", "the first of them was not closed"
        for connection in silent:
            connection.close()


def test_those_that_are_answered_are_not_cut_off() -> None:
    """They have their places until their answers have been sent; one more is closed unanswered."""
    app = App()
    with serving(app) as port:
        held = [opened(port, b"GET /hold HTTP/1.1\r\n\r\n") for _ in range(MAX_CONNECTIONS)]
        eventually(lambda: app.held == MAX_CONNECTIONS, "not all are answered")
        assert read(opened(port, b"")) == b""
        app.let_go.set()
        assert all(read(connection).endswith(b"\r\n\r\nok") for connection in held)
        eventually(lambda: _served(port), "there is no room again")


def _served(port: int) -> bool:
    try:
        return get(port, "/").status == 200
    except OSError:
        return False


def test_a_request_has_one_time_for_all_of_it() -> None:
    """Byte after byte does not prolong it."""
    with serving(patience=0.5) as port:
        slow = opened(port, b"GET / HTTP/1.1\r\nX: ")
        ended = threading.Event()

        def trickle() -> None:
            with suppress(OSError):
                while not ended.wait(0.02):
                    slow.sendall(b"a")

        sender = threading.Thread(target=trickle)
        sender.start()
        assert read(slow) == b""
        ended.set()
        sender.join()


def test_a_slow_but_steady_download_is_not_cut() -> None:
    """The whole may take many times as long as a slice may."""
    with serving(patience=1.5) as port:
        connection = opened(port, b"GET /body HTTP/1.1\r\n\r\n")
        began = time.monotonic()
        answer = read(connection, lambda: time.sleep(0.03))
        assert answer.endswith(BODY)
        assert time.monotonic() - began > 3.0, "it was no slow download"


def test_a_download_that_creeps_is_cut() -> None:
    """Below the least rate, though no slice takes long."""
    with serving(patience=1.0, least_rate=1e9) as port:
        connection = opened(port, b"GET /body HTTP/1.1\r\n\r\n")
        assert len(read(connection, lambda: time.sleep(0.03))) < len(BODY)


def test_a_download_that_stands_still_is_cut() -> None:
    """After the time for a slice."""
    app = App()
    with serving(app, patience=0.3) as port:
        connection = opened(port, b"GET /body HTTP/1.1\r\n\r\n")
        time.sleep(1.0)
        assert len(read(connection)) < len(BODY)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged at level debug, as JSON lines."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    configure("debug", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_what_goes_wrong_is_a_line_of_the_log(log: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    """A bug is an error there, a client that stalls is for debugging, and the error stream gets neither."""
    with serving(patience=0.3) as port:
        assert get(port, "/fail").status == 500
        connection = opened(port, b"GET /body HTTP/1.1\r\n\r\n")
        eventually(lambda: "TimeoutError" in log.getvalue(), "nothing is logged")
        connection.close()
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.getvalue().splitlines()]
    assert {line["level"] for line in lines if "ValueError" in line.get("exception", "")} == {"error"}
    assert {line["level"] for line in lines if "TimeoutError" in line.get("exception", "")} == {"debug"}
    assert capfd.readouterr().err == ""
