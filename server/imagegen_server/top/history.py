"""The last scrapes of one server: what grew by how much, restarts of the server included."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from imagegen_server.top.distribution import Distribution, distribution
from imagegen_server.top.snapshot import Samples, Snapshot, by_label, total


class Growth:
    """How much every counter and histogram grew over some time."""

    def __init__(self, increases: Samples, seconds: float | None) -> None:
        """Args: the increases, and over how many seconds; None if that is not known."""
        self._increases = increases
        self.seconds = seconds
        """The time that it took; None if that is not known."""

    def increase(self, name: str, /, **labels: str) -> float | None:
        """Returns how much the series with these labels grew together; None if there is none."""
        return total(self._increases, name, labels)

    def by(self, name: str, label: str, /, **labels: str) -> dict[str, float]:
        """Returns the increases of the series with these labels for each value of one more label; empty if none."""
        return by_label(self._increases, name, label, labels)

    def rate(self, name: str, /, **labels: str) -> float | None:
        """Returns the increase in a second; None if there is no such series or no known time."""
        grown = self.increase(name, **labels)
        return None if grown is None or not self.seconds else grown / self.seconds

    def distribution(self, name: str, /, **labels: str) -> Distribution | None:
        """Returns what a histogram observed in this time; None if there is none with these labels."""
        return distribution(self._increases, name, labels)


class History:
    """The scrapes of a moving window.

    What a restarted server has counted since its start is added to what was counted before, so that an increase over a
    restart lacks only what happened after the last scrape of the old process.
    """

    def __init__(self, window: float) -> None:
        """Args: how many seconds back growth is looked at."""
        self._window = window
        self._continued: deque[Snapshot] = deque()
        self._newest: Snapshot | None = None
        self.restarts = 0
        """Restarts that were seen."""

    @property
    def newest(self) -> Snapshot | None:
        """The last scrape, as it was; None before the first."""
        return self._newest

    def add(self, snapshot: Snapshot) -> None:
        """Takes the next scrape, which must be later than the last; forgets what has left the window."""
        continued = snapshot
        if self._newest is not None:
            before = self._continued[-1]
            restarted = snapshot.is_after_restart(self._newest)
            self.restarts += restarted
            grown = snapshot.counters if restarted else difference(snapshot.counters, self._newest.counters)
            continued = replace(snapshot, counters=_sum(before.counters, grown))
        self._newest = snapshot
        self._continued.append(continued)
        while self._continued[0].at < snapshot.at - self._window:
            self._continued.popleft()

    def recent(self) -> Growth | None:
        """Returns the growth over the window; None before there are two scrapes in it."""
        if len(self._continued) < 2:
            return None
        first, last = self._continued[0], self._continued[-1]
        return Growth(difference(last.counters, first.counters), last.at - first.at)

    def lifetime(self) -> Growth | None:
        """Returns the growth since the server's start, without a time; None before the first scrape."""
        return None if self._newest is None else Growth(self._newest.counters, None)

    def peak(self, name: str) -> float | None:
        """Returns the greatest total of a gauge among the scrapes of the window; None if it was in none."""
        seen = [value for each in self._continued if (value := each.total(name)) is not None]
        return max(seen, default=None)


def difference(later: Samples, earlier: Samples) -> Samples:
    """Returns how much every series grew; one that is new, or fell back, grew from 0."""
    return {
        name: {labels: _grown(value, earlier.get(name, {}).get(labels, 0.0)) for labels, value in series.items()}
        for name, series in later.items()
    }


def _grown(later: float, earlier: float) -> float:
    return later - earlier if later >= earlier else later


def _sum(one: Samples, other: Samples) -> Samples:
    """Returns the sums of the series of `other` with those of `one`; what only `one` has is gone."""
    return {
        name: {labels: value + one.get(name, {}).get(labels, 0.0) for labels, value in series.items()}
        for name, series in other.items()
    }
