"""When a call is made again on another server. Knows no channel; shared by both clients."""

from __future__ import annotations

import time
from typing import Final

from imagegen.errors import ServiceUnavailableError

GOES_ELSEWHERE: Final = (("x-goes-elsewhere", "DRAINING"),)
"""Metadata of calls that this client makes again elsewhere by itself: the server forbids gRPC's own retries for that
reason, which would go to the same server."""

CHECK_SECONDS: Final = 5.0
"""How long another server may take to say that it serves."""

MOST_LINKS: Final = 4
"""Connections that are kept: the one in use, and those to servers that were left, which may have generations yet."""

_REASONS: Final = frozenset({"DRAINING", "LOADING"})
"""Of a server that takes no generations, while another may."""


def sends_elsewhere(error: ServiceUnavailableError) -> bool:
    """Returns whether another server may take what this one does not."""
    return error.details.reason in _REASONS


class Repeats:
    """How often one call may be made yet, and how long it may take."""

    def __init__(self, seconds: float | None, attempts: int) -> None:
        """Begins now; `seconds` is the time for all attempts, None if there is no end."""
        self._end = None if seconds is None else time.monotonic() + seconds
        self._left = attempts

    def remaining(self) -> float | None:
        """Returns the seconds left for the next attempt; never 0, so that the call itself says that its time is up."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)

    def another(self) -> bool:
        """Returns whether one more attempt may be made, and counts it."""
        self._left -= 1
        return self._left > 0
