"""Which turn the time goes to, where the device runs behind the host. Pure bookkeeping: no clock, no lock.

Such a device is given an evaluation while it runs the one before, and the step returns once that one has ended. So what
a step takes is the time of the turn before it, unless it waits for its own as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagegen_server.core import LatentShape, Stage
from imagegen_server.engine.generation import Track


@dataclass(kw_only=True, eq=False, slots=True)
class Turn:
    """One turn of the device."""

    stage: Stage
    shape: LatentShape
    shares: Sequence[tuple[Track, int]]
    """The jobs that took part, with the rows of each."""
    failed: bool
    """Nobody advanced."""
    seconds: float = 0.0
    """What it took, as far as is known."""

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return sum(rows for _, rows in self.shares)


@dataclass(kw_only=True, frozen=True, slots=True)
class Charge:
    """A part of what a turn took."""

    turn: Turn
    seconds: float
    joules: float | None
    """None if unknown."""
    ended: bool
    """The turn has ended, and its `seconds` are all that it took."""


class Outstanding:
    """The turn that the device may still be at."""

    def __init__(self, predicted: Callable[[Stage, LatentShape, int], float]) -> None:
        """Args: seconds, above 0, from stage, latent shape and rows; divides what two turns took together."""
        self._predicted = predicted
        self._turn: Turn | None = None

    def __bool__(self) -> bool:
        return self._turn is not None

    def book(self, turn: Turn, seconds: float, joules: float | None, *, ahead: bool) -> Sequence[Charge]:
        """Returns what a step took by the turns that took it. `ahead`: it did not wait for its own turn to end."""
        before, self._turn = self._turn, turn if ahead else None
        if before is None:
            return (_charge(turn, seconds, joules, 1.0, ended=not ahead),)
        if ahead:
            return (_charge(before, seconds, joules, 1.0, ended=True),)
        own, other = self._expected(turn), self._expected(before)
        part = own / (own + other)
        return _charge(before, seconds, joules, 1 - part, ended=True), _charge(turn, seconds, joules, part, ended=True)

    def settle(self, seconds: float, joules: float | None) -> Sequence[Charge]:
        """Returns what it took to wait for the device."""
        turn, self._turn = self._turn, None
        return () if turn is None else (_charge(turn, seconds, joules, 1.0, ended=True),)

    def _expected(self, turn: Turn) -> float:
        return self._predicted(turn.stage, turn.shape, turn.rows)


def _charge(turn: Turn, seconds: float, joules: float | None, part: float, *, ended: bool) -> Charge:
    turn.seconds += seconds * part
    return Charge(turn=turn, seconds=seconds * part, joules=None if joules is None else joules * part, ended=ended)
