"""Which of many lines that are alike are written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

AT_ONCE: Final = 10
"""Lines of a kind that are written as they come."""
SECONDS: Final = 6.0
"""After so many seconds one more may be written: ten a minute, if they do not stop."""
MOST_KINDS: Final = 1000
"""Kinds that are remembered; of more, those that came up last."""


@dataclass(slots=True)
class _Kind:
    allowed: float
    filled_at: float
    left_out: int = 0


class Sparing:
    """Says of each line whether it is written. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seconds: float = SECONDS) -> None:
        """Args: seconds, monotonic; after how many of them one more line of a kind may be written."""
        self._clock = clock
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}

    def take(self, kind: str) -> int | None:
        """Returns how many of a kind were left out since the last that was written; None to leave this one out."""
        now = self._clock()
        with self._lock:
            found = self._kinds.pop(kind, None) or _Kind(AT_ONCE, now)
            self._kinds[kind] = found  # behind those that came up before
            if len(self._kinds) > MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            found.allowed = min(found.allowed + (now - found.filled_at) / self._seconds, AT_ONCE)
            found.filled_at = now
            if found.allowed < 1:
                found.left_out += 1
                return None
            found.allowed -= 1
            left_out, found.left_out = found.left_out, 0
            return left_out
