"""Fetching over HTTP: addresses, and every way in which an answer may be none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from imagegen_server.top.scrape import Poller, ScrapeFailed, Scraper, checked_url
from imagegen_server.top.snapshot import Snapshot
from support.exposition import Exposition

TEXT = Exposition().gauge("imagegen_serving", 1).text().encode()


ANSWERS = {
    "/metrics": (200, TEXT),
    "/busy": (503, b"later"),
    "/page": (200, b"<html>welcome</html>"),
    "/binary": (200, b"\xff\xfe\x00"),
    "/cut": (200, TEXT),
    "/moved": (302, b""),
}
"""Status and body by path."""


class _Handler(BaseHTTPRequestHandler):
    """Answers by the path; /cut promises more than comes."""

    def do_GET(self) -> None:
        status, body = ANSWERS.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + (self.path == "/cut")))
        if status == 302:
            self.send_header("Location", "file:///etc/passwd")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Is quiet."""


@pytest.fixture(scope="module")
def at() -> Iterator[Callable[[str], str]]:
    """A server; called with a path it gives the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield lambda path: f"http://127.0.0.1:{server.server_port}{path}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:9464", "http://127.0.0.1:9464/metrics"),
        ("gpu-7:9464", "http://gpu-7:9464/metrics"),
        ("http://gpu-7:9464/", "http://gpu-7:9464/metrics"),
        ("https://gpu-7/a/metrics?x=1", "https://gpu-7/a/metrics?x=1"),
        ("[::1]:9464", "http://[::1]:9464/metrics"),
    ],
)
def test_addresses_are_completed(text: str, url: str) -> None:
    """host:port is enough."""
    assert checked_url(text) == url


@pytest.mark.parametrize("text", ["", "file:///etc/passwd", "ftp://a/metrics", "http://", "a:0", "a:port", "a:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """Before anything is asked."""
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        checked_url(text)


def test_an_answer_is_a_snapshot(at: Callable[[str], str]) -> None:
    """With the time at which it came."""
    first, second = (Scraper(at("/metrics")).scrape() for _ in range(2))
    assert first.total("imagegen_serving") == 1
    assert second.at >= first.at


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nowhere", "it answers 404 Not Found"),
        ("/busy", "it answers 503 Service Unavailable"),
        ("/moved", "it answers 302 Found"),
        ("/page", "the answer"),
        ("/binary", "utf-8"),
        ("/cut", "cut off"),
    ],
)
def test_what_is_no_answer_is_told(at: Callable[[str], str], path: str, reason: str) -> None:
    """In a line, and redirects are not followed."""
    with pytest.raises(ScrapeFailed, match=reason) as caught:
        Scraper(at(path)).scrape()
    assert "\n" not in str(caught.value)


def test_nobody_there_is_told() -> None:
    """A closed port and a name that does not exist."""
    with pytest.raises(ScrapeFailed, match="connection refused"):
        Scraper("http://127.0.0.1:1/metrics").scrape()
    with pytest.raises(ScrapeFailed, match=r"not known|resol|No address|failure"):
        Scraper("http://no-such-host.invalid/metrics").scrape()


def test_a_poller_tells_of_answers_and_failures_in_order(at: Callable[[str], str]) -> None:
    """One after the other, until its block ends."""
    for url, kind in ((at("/metrics"), Snapshot), (at("/busy"), ScrapeFailed)):
        results: list[Snapshot | ScrapeFailed] = []
        with Poller(Scraper(url), 0.01) as poller:
            while len(results) < 3:
                results += poller.results()
        assert all(isinstance(result, kind) for result in results)
