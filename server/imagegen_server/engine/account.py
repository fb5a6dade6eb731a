"""What a generation took from the device. Pure bookkeeping."""

from __future__ import annotations

from imagegen_server.core import Usage


class Account:
    """Device seconds, energy and memory of one generation."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._given_up = 0.0
        self._joules: float | None = 0.0
        self._peak: int | None = None

    def spend(self, seconds: float, joules: float | None) -> None:
        """Notes its part of a turn. Its energy is unknown once that of one part is."""
        self._seconds += seconds
        self._joules = None if self._joules is None or joules is None else self._joules + joules

    def give_up(self, seconds: float) -> None:
        """Notes that so much of what was spent went into a stage whose result is not used."""
        self._given_up += seconds

    def hold(self, peak_memory_bytes: int) -> None:
        """Notes how much device memory was in use meanwhile."""
        self._peak = max(peak_memory_bytes, self._peak or 0)

    @property
    def delivering_seconds(self) -> float:
        """What was spent and not given up: wasted as well if nothing is delivered."""
        return self._seconds - self._given_up

    def usage(self) -> Usage:
        """Returns what it took so far."""
        return Usage(
            device_seconds=self._seconds,
            wasted_device_seconds=self._given_up,
            energy_joules=self._joules if self._seconds else None,
            peak_memory_bytes=self._peak,
        )
