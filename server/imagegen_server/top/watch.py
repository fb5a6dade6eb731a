"""What is known of a server: its scrapes and its silences, as the page of this moment."""

from __future__ import annotations

from imagegen_server.top.history import History
from imagegen_server.top.page import Page
from imagegen_server.top.report import report
from imagegen_server.top.scrape import ScrapeFailed
from imagegen_server.top.snapshot import Snapshot


class Watch:
    """Hears of every scrape of one server, in order."""

    def __init__(self, url: str, *, window: float, since_start: bool = False) -> None:
        """Args: the address for the headline, the window in seconds, and whether durations are since the start."""
        self._url = url
        self._history = History(window)
        self._since_start = since_start
        self._failure = ""
        self._failing_since: float | None = None

    def hear(self, result: Snapshot | ScrapeFailed, clock: float) -> None:
        """Takes the result of a scrape, at `clock` in Unix time."""
        if isinstance(result, Snapshot):
            self._history.add(result)
            self._failure, self._failing_since = "", None
        else:
            self._failure = str(result)
            if self._failing_since is None:
                self._failing_since = clock

    def page(self, clock: float, hint: str = "") -> Page:
        """Returns the page at `clock` in Unix time."""
        known = self._history.newest is not None
        return Page(
            url=self._url,
            report=report(self._history, since_start=self._since_start) if known else None,
            clock=clock,
            failure=self._failure,
            failing_since=self._failing_since,
            hint=hint,
        )
