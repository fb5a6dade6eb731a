"""How busy the device was of late, and what follows for those who wait. Pure bookkeeping: no clock, no lock."""

from __future__ import annotations

import math
from typing import Final

MEMORY_SECONDS: Final = 120.0
"""Time after which what the device did counts 1/e as much: long against a generation, short against a day's load."""

_MOST = 0.99
"""Shares above this count as this much, so that nothing is infinite."""


class Utilization:
    """An exponentially weighted mean of how busy the device is."""

    def __init__(self) -> None:
        self._share = 0.0
        self._at = -math.inf

    def observe(self, elapsed: float, now: float) -> None:
        """Notes that the device was busy for the last `elapsed` seconds, and idle before since the last call."""
        self._share = 1 - (1 - self.share(now - elapsed)) * math.exp(-elapsed / MEMORY_SECONDS)
        self._at = now

    def share(self, now: float) -> float:
        """Returns the part of the time that the device was busy, 0 to 1, if it was idle since the last call."""
        return self._share * math.exp(-max(now - self._at, 0.0) / MEMORY_SECONDS)

    def crowd(self, present: int, now: float) -> float:
        """Returns how many generations count in `policy.Batching.choose`, at least `present`.

        While the device works off the n that are present, and those that come meanwhile, n u / (1 - u) more come at a
        utilization of u (the busy period of a queue with Poisson arrivals: L. Kleinrock, "Queueing Systems", volume 1,
        1975, section 5.8). They wait for all of the work that is present, which itself waits for half of it in the
        mean. So they count twice, and the crowd is n (1 + u) / (1 - u).
        """
        busy = min(self.share(now), _MOST)
        return present * (1 + busy) / (1 - busy)
