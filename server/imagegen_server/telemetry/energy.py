"""The joules of one GPU, for whoever must not wait for its driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(kw_only=True, frozen=True, slots=True)
class EnergyReading:
    """What the driver said."""

    at: float
    """When, on the meter's clock."""
    joules: float
    """Since some beginning; never less than in a reading before."""
    watts: float | None
    """Power; None if the driver does not give it."""


class EnergyMeter:
    """Tells a GPU's joules at any moment from readings that come about once a second.

    Between readings it goes on with the last power. Where that was too much, it stands still until the counter has
    caught up, so that what a reader adds up over many intervals comes to what the counter counted. Neither side
    waits: a reading is one reference, replaced whole.
    """

    def __init__(self, *, max_age: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepares, without a reading.

        Args:
            max_age: seconds after which a reading is too old to go on from, above 0.
            clock: seconds, monotonic.
        """
        self._max_age = max_age
        self._clock = clock
        self._reading: EnergyReading | None = None
        self._shown = 0.0

    def update(self, reading: EnergyReading) -> None:
        """Takes a reading; one without a power gets the mean power since the one before. For one thread."""
        last = self._reading
        if reading.watts is None:
            elapsed = reading.at - last.at if last is not None else 0.0
            watts = (reading.joules - last.joules) / elapsed if last is not None and elapsed > 0 else 0.0
            reading = EnergyReading(at=reading.at, joules=reading.joules, watts=watts)
        self._reading = reading

    def clear(self) -> None:
        """Forgets the reading: the GPU no longer answers."""
        self._reading = None

    def read(self) -> float | None:
        """Returns joules since some beginning, never less than before; None without a fresh reading. For one thread."""
        reading = self._reading
        age = self._clock() - reading.at if reading is not None else 0.0
        if reading is None or age > self._max_age:
            return None
        self._shown = max(self._shown, reading.joules + (reading.watts or 0.0) * max(age, 0.0))
        return self._shown
