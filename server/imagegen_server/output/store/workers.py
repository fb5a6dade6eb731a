"""Threads for work that may hang: whoever waits is told in time, and the work never piles up."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Busy(Exception):
    """Too much work is waiting, or every thread hangs."""


class _Task(Generic[T]):
    """A piece of work whose end is told once: its result, its error, or that it took too long."""

    def __init__(self, work: Callable[[], T], done: Callable[[T | None, Exception | None], None]) -> None:
        self._lock = threading.Lock()
        self._work: Callable[[], T] | None = work
        self._done: Callable[[T | None, Exception | None], None] | None = done

    @property
    def told(self) -> bool:
        """Whether nobody waits any more."""
        return self._done is None

    def run(self) -> None:
        """Does the work, unless nobody waits any more."""
        work, self._work = self._work, None
        if work is None or self.told:
            return
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - whatever the work raises is told to whoever waits for it
            self.tell(None, error)
        else:
            self.tell(result, None)

    def tell(self, result: T | None, error: Exception | None) -> None:
        """Tells whoever waits, the first time."""
        with self._lock:
            done, self._done = self._done, None
        if done is not None:
            self._work = None  # what still waits in the queue is not done, and keeps no bytes
            done(result, error)


class Workers:
    """Runs work on `threads` daemon threads, at most `capacity` pieces waiting.

    A piece that is not done within its patience is told as TimeoutError; if it had begun, it goes on and its end is
    not told. While every thread hangs in such work, and while too many pieces wait, new ones are told as Busy at once:
    a store that hangs costs a few callers their patience, and then nobody.
    """

    def __init__(self, *, threads: int, capacity: int, name: str) -> None:
        """Args: how many threads, at least 1; how many may wait, at least 1; what the threads are called."""
        self._queue: queue.Queue[_Task[Any] | None] = queue.Queue(capacity)
        self._lock = threading.Condition()
        self._expiries: list[tuple[float, int, _Task[Any]]] = []
        self._numbers = itertools.count()
        self._running: dict[int, _Task[Any]] = {}
        self._stopped = False
        self._threads = threads
        for number in range(threads):
            threading.Thread(target=self._work, args=(number,), name=f"{name}-{number}", daemon=True).start()
        threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True).start()

    def submit(
        self, work: Callable[[], T], *, patience: float, done: Callable[[T | None, Exception | None], None]
    ) -> None:
        """Begins a piece of work and returns at once.

        Args:
            work: what to do.
            patience: seconds after which `done` gets TimeoutError.
            done: gets the result, or the error, exactly once, from any thread.
        """
        task = _Task(work, done)
        if self._hangs():
            task.tell(None, Busy("every thread hangs"))
            return
        try:
            self._queue.put_nowait(task)
        except queue.Full:
            task.tell(None, Busy("too much is waiting"))
            return
        with self._lock:
            heapq.heappush(self._expiries, (time.monotonic() + patience, next(self._numbers), task))
            self._lock.notify_all()

    def call(self, work: Callable[[], T], *, patience: float) -> T:
        """Does a piece of work and returns its result. Raises what it raises, TimeoutError, or Busy."""
        ended = threading.Event()
        outcome: list[tuple[T | None, Exception | None]] = []

        def done(result: T | None, error: Exception | None) -> None:
            outcome.append((result, error))
            ended.set()

        self.submit(work, patience=patience, done=done)
        ended.wait()
        result, error = outcome[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value] # None only if the work returns it

    def stop(self) -> None:
        """Lets the threads end once they have nothing to do; waits for none."""
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
        for _ in range(self._threads):
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                return  # they hang, and are daemons

    def _hangs(self) -> bool:
        with self._lock:
            return len(self._running) == self._threads and all(task.told for task in self._running.values())

    def _work(self, number: int) -> None:
        while (task := self._queue.get()) is not None:
            with self._lock:
                self._running[number] = task
            try:
                task.run()
            except Exception:
                logging.getLogger(__name__).exception("telling the end of some work failed")
            finally:
                with self._lock:
                    del self._running[number]

    def _watch(self) -> None:
        """Tells those whose patience is over."""
        while True:
            with self._lock:
                while self._expiries and self._expiries[0][2].told:
                    heapq.heappop(self._expiries)
                if self._stopped and not self._expiries:
                    return
                left = self._expiries[0][0] - time.monotonic() if self._expiries else None
                if left is None or left > 0:
                    self._lock.wait(left)
                    continue
                _, _, task = heapq.heappop(self._expiries)
            task.tell(None, TimeoutError("took too long"))
