"""The store's events as metrics, and as a log line where something begins or ends to go wrong.

It has the methods of the store's observer protocol, by shape: this room does not know the store. Errors are told by
their kind and number: what a file system writes into their text is not this server's to check for prompts.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from imagegen_server.core import KeepFailure
from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.instruments import Metrics

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger


class StoreListener:
    """Counts everything, and logs what changes. Methods return at once and may be called from any thread."""

    def __init__(self, metrics: Metrics, logger: BoundLogger) -> None:
        """Args: metrics; where lines go."""
        self._metrics = metrics
        self._logger = logger
        self._lock = threading.Lock()
        self._trouble: dict[str, str] = {}
        """What does not work, and how that shows."""

    def written(self, failure: KeepFailure | None, error: Exception | None, seconds: float) -> None:
        """Counts an image that was to be kept, and observes how long that took if it was."""
        self._metrics.counter(m.STORE_WRITES_TOTAL, "ok" if failure is None else failure).inc()
        if failure is None:
            self._metrics.histogram(m.STORE_WRITE_SECONDS).observe(seconds)
        self._change("write", "" if failure is None else failure, error)

    def read(self, outcome: str, error: Exception | None) -> None:
        """Counts an image that was asked for."""
        self._metrics.counter(m.STORE_READS_TOTAL, outcome).inc()
        if outcome in ("ok", "failed", "damaged"):
            self._change("read", "" if outcome == "ok" else outcome, error)

    def held(self, images: int, held_bytes: int) -> None:
        """Shows what the store has."""
        self._metrics.gauge(m.STORE_IMAGES).set(images)
        self._metrics.gauge(m.STORE_BYTES).set(held_bytes)

    def removed(self, reason: str, images: int) -> None:
        """Counts images that retention removed."""
        self._metrics.counter(m.STORE_REMOVED, reason).inc(images)
        self._logger.info("images removed from the store", reason=reason, images=images)

    def swept(self) -> None:
        """Shows that it works."""
        self._metrics.gauge(m.STORE_SWEEP_FAILING).set(0)
        self._change("sweep", "", None)

    def sweep_failed(self, error: Exception) -> None:
        """Counts it, and shows it until a sweep succeeds."""
        self._metrics.counter(m.STORE_SWEEP_FAILURES).inc()
        self._metrics.gauge(m.STORE_SWEEP_FAILING).set(1)
        self._change("sweep", "failed", error)

    def limited(self, max_bytes: int | None) -> None:
        """Shows how much the store may have."""
        self._metrics.gauge(m.STORE_LIMIT).set(max_bytes or 0)

    def _change(self, what: str, trouble: str, error: Exception | None) -> None:
        """Logs what begins or ends to go wrong, or goes wrong in another way."""
        with self._lock:
            before, self._trouble[what] = self._trouble.get(what, ""), trouble
        if trouble == before:
            return
        if trouble:
            self._logger.warning("store fails", operation=what, failure=trouble, error=_kind(error))
        else:
            self._logger.info("store works again", operation=what)


def _kind(error: Exception | None) -> str:
    """Returns the class of an error and the name of its number, where it has one."""
    number = error.errno if isinstance(error, OSError) else None
    name = errno.errorcode.get(number or 0, "")
    return f"{type(error).__name__} {name}".strip()
