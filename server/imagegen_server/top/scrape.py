"""Fetching `/metrics` over HTTP: once, or again and again on a thread of its own."""

from __future__ import annotations

import http.client
import queue
import threading
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from imagegen_server.top.snapshot import Snapshot, parse

TIMEOUT: Final = 5.0
"""Seconds that a server may take for an answer, or for a part of it."""
_MOST_BYTES: Final = 64 * 2**20
"""More than any answer of this server has; an endless one must not fill the memory."""


class ScrapeFailed(Exception):
    """There is no answer, or it is none of `/metrics`; the message says why, in a line."""


def checked_url(text: str) -> str:
    """Returns the address of `/metrics` for a URL or for host:port alone. Raises ValueError for anything else."""
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:  # a bad port raises ValueError
        raise ValueError(f"{text!r} is no http or https address")
    return url._replace(path=url.path if url.path not in ("", "/") else "/metrics").geturl()


class Scraper:
    """Asks one server. Follows no redirect to another scheme, and uses no proxy."""

    def __init__(self, url: str, token: str = "") -> None:
        """Args: url as `checked_url` returns it; a bearer token to show, if there is one."""
        self._url = url
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            self._opener.add_handler(handler)
        self._opener.addheaders = [("Accept", "text/plain;version=0.0.4"), ("User-Agent", "imagegen-server top")]
        if token:
            self._opener.addheaders.append(("Authorization", f"Bearer {token}"))

    def scrape(self) -> Snapshot:
        """Returns what the server says now. Raises ScrapeFailed."""
        try:
            with self._opener.open(self._url, timeout=TIMEOUT) as answer:
                text = answer.read(_MOST_BYTES).decode()
                if answer.length:  # what its header promised and is not there
                    raise ScrapeFailed("the answer is cut off or too long")
        except urllib.error.HTTPError as error:
            error.close()
            raise ScrapeFailed(f"it answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ScrapeFailed(_reason(error)) from error
        try:
            return parse(text, time.monotonic())
        except ValueError as error:
            raise ScrapeFailed(str(error)) from error


class Poller:
    """Scrapes at an interval, as long as its block lasts. A server that hangs does not hang the block."""

    def __init__(self, scraper: Scraper, interval: float) -> None:
        """Args: whom to ask, and how many seconds lie between the beginnings of two scrapes, at least."""
        self._scraper = scraper
        self._interval = interval
        self._results: queue.SimpleQueue[Snapshot | ScrapeFailed] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()  # a scrape under way is a daemon's, and may be left alone

    def results(self) -> list[Snapshot | ScrapeFailed]:
        """Returns what came since the last call, in order, without waiting."""
        found = []
        while not self._results.empty():
            found.append(self._results.get())
        return found

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self._results.put(self._scraper.scrape())
            except ScrapeFailed as failure:
                self._results.put(failure)
            self._stopped.wait(max(0.0, began + self._interval - time.monotonic()))


def _reason(error: BaseException) -> str:
    """Returns why a connection failed, in a few words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing within {TIMEOUT:g} s"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause) or type(cause).__name__
