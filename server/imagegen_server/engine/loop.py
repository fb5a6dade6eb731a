"""What the device thread does: one turn after the other, and sleep while there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from imagegen_server.core import Stage, StepResult
from imagegen_server.engine.books import Books
from imagegen_server.engine.generation import Track
from imagegen_server.engine.runner import Runner
from imagegen_server.engine.turns import Turns
from imagegen_server.errors import DeviceLost


class Loop:
    """Has the runner step what `Turns` chooses. All but `end` belongs to the device thread."""

    def __init__(self, books: Books, turns: Turns, runner: Runner, energy: Callable[[], float | None]) -> None:
        self._work = books.work
        self._clock = books.clock
        self._turns = turns
        self._runner = runner
        self._energy = energy
        self._ended = False

    def end(self) -> None:
        """Has `run` return with the turn that it is at. Under the engine's lock, whose waiters must then be told."""
        self._ended = True

    def run(self) -> None:
        """Runs turns until `end`. Raises whatever breaks the device thread: DeviceLost, say."""
        while not self._ended:
            if not self.turn():
                self._sleep()

    def turn(self) -> bool:
        """Admits, chooses a batch, steps it, advances its jobs and publishes; returns whether anything ran."""
        with self._work:
            batch = self._turns.begin(self._clock())
        if not batch:
            self._settle()
            return False
        if self._turns.outstanding and not self._turns.prepared(batch):
            self._settle()  # else what this one pays only once would be taken for a part of the last one
        started, before = self._clock(), self._energy()
        results = self._step(batch[0].planned.stage, batch)
        joules = self._used_since(before)
        with self._work:
            self._turns.end(batch, results, started=started, now=self._clock(), joules=joules)
        return True

    def _step(self, stage: Stage, batch: Sequence[Track]) -> Sequence[StepResult] | Exception:
        """Runs the batch; returns its results, or why none of its jobs advanced."""
        try:
            return self._runner.step(stage, [track.job for track in batch])
        except DeviceLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model raises fails its jobs, never the server
            failure = error
        self._runner.settle()
        return failure

    def _settle(self) -> None:
        """Waits for a turn that the device may still be at; not at the end, when it may be lost."""
        if self._turns.outstanding and not self._ended:
            started, before = self._clock(), self._energy()
            self._runner.settle()
            joules = self._used_since(before)
            with self._work:
                self._turns.settled(started=started, now=self._clock(), joules=joules)

    def _used_since(self, before: float | None) -> float | None:
        """Returns the joules that the device has used since a reading; None if either is unknown."""
        after = self._energy()
        return None if before is None or after is None else max(after - before, 0.0)

    def _sleep(self) -> None:
        """Waits for work, at most until those in the queue must hear of something."""
        with self._work:
            if self._ended or self._turns.runnable():
                return
            now = self._clock()
            until = self._turns.wakes_at(now)
            self._work.wait(None if until is None else max(until - now, 0.0))
