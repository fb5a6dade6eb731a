"""Progress of a download where there is no terminal: huggingface_hub's bars turned into numbers and log lines."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True, slots=True)
class DownloadProgress:
    """How far the download of one repository is."""

    name: str
    completed_bytes: int
    total_bytes: int
    """0 if nothing is to be downloaded."""


def log_progress(
    interval: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> Callable[[DownloadProgress], None]:
    """Returns a receiver that writes a log line at most every `interval` seconds, and one at the end."""
    last: list[float] = []

    def receive(progress: DownloadProgress) -> None:
        now = clock()
        complete = progress.completed_bytes >= progress.total_bytes
        if last and now - last[-1] < interval and not complete:
            return
        last[:] = [now]
        percent = 100.0 * progress.completed_bytes / progress.total_bytes if progress.total_bytes else 100.0
        _log.info(
            "downloading %s: %.2f of %.2f GB (%.0f %%)",
            progress.name,
            progress.completed_bytes / 1e9,
            progress.total_bytes / 1e9,
            percent,
        )

    return receive


def reporting_bar(report: Callable[[int], None]) -> type[Any]:
    """Returns a tqdm class that draws nothing and reports the bytes that the furthest bar has counted.

    The client opens several bars: files, bytes received, bytes written. Those that count bytes say so in their
    unit, and the furthest of them is the state of the download. Reports never go back; threads may call.
    """
    from tqdm.auto import tqdm  # noqa: PLC0415 - only where something is downloaded

    lock = threading.Lock()
    furthest = [0]

    class Bar(tqdm):  # type: ignore[misc]  # tqdm has no type information
        monitor_interval = 0
        """No thread that draws bars again: it reads a set while downloads change it, which may raise."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            """Draws nothing."""
            del msg, pos
            return True

        def update(self, n: float | None = 1) -> bool | None:
            """Counts, and reports if this bar counts bytes."""
            moved = super().update(n)
            if self.unit == "B":
                with lock:
                    done = int(self.n)
                    if done > furthest[0]:
                        furthest[0] = done
                        report(done)
            return moved  # type: ignore[no-any-return]  # as above

    return Bar
