"""Work that may hang: its end is told once and in time, and it never piles up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from imagegen_server.output.store.workers import Busy, Workers
from support.waiting import eventually

LONG = 60.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging work waits for; open after the test."""
    event = threading.Event()
    yield event
    event.set()


def set_and_wait(first: threading.Event, then: threading.Event) -> None:
    """Work that tells that it runs, and hangs."""
    first.set()
    then.wait()


def wait_and_set(first: threading.Event, then: threading.Event) -> None:
    """Work that hangs, and tells that it ends."""
    first.wait()
    then.set()


def test_results_and_errors_are_told() -> None:
    """What the work returns or raises comes back."""
    workers = Workers(threads=2, capacity=4, name="t")
    assert [workers.call(partial(pow, n, 2), patience=LONG) for n in range(20)] == [n * n for n in range(20)]
    assert workers.call(lambda: None, patience=LONG) is None
    with pytest.raises(ZeroDivisionError):
        workers.call(lambda: 1 // 0, patience=LONG)
    workers.stop()


def test_work_that_hangs_is_told_in_time_and_once(gate: threading.Event) -> None:
    """TimeoutError after its patience, and nothing more when it ends after all."""
    workers = Workers(threads=1, capacity=4, name="t")
    told: list[Exception | None] = []
    ended, first = threading.Event(), threading.Event()

    def work() -> None:
        gate.wait()
        ended.set()

    def done(_: None, error: Exception | None) -> None:
        told.append(error)
        first.set()

    began = time.monotonic()
    workers.submit(work, patience=0.05, done=done)
    first.wait()
    assert time.monotonic() - began >= 0.05
    gate.set()
    ended.wait()
    assert workers.call(lambda: 1, patience=LONG) == 1  # the thread is free again: all of the first was told
    assert [type(error) for error in told] == [TimeoutError]


def test_what_waits_behind_it_is_told_too_and_not_done(gate: threading.Event) -> None:
    """Work whose patience ends in the queue is dropped: a store that comes back has no backlog."""
    workers = Workers(threads=1, capacity=4, name="t")
    running = threading.Event()
    done_anyway: list[int] = []
    workers.submit(lambda: set_and_wait(running, gate), patience=LONG, done=lambda *_: None)
    running.wait()
    with pytest.raises(TimeoutError):
        workers.call(lambda: done_anyway.append(1), patience=0.05)
    gate.set()
    assert workers.call(lambda: 1, patience=LONG) == 1
    assert done_anyway == []


def test_while_every_thread_hangs_new_work_is_refused_at_once(gate: threading.Event) -> None:
    """Who comes after the patience of the first is over waits for nothing; afterwards all is well again."""
    workers = Workers(threads=2, capacity=8, name="t")
    ended = [threading.Event() for _ in range(2)]
    for event in ended:
        with pytest.raises(TimeoutError):
            workers.call(partial(wait_and_set, gate, event), patience=0.05)
    with pytest.raises(Busy):
        workers.call(lambda: 1, patience=LONG)
    gate.set()
    for event in ended:
        event.wait()

    def recovered() -> bool:
        try:
            return workers.call(lambda: 1, patience=LONG) == 1
        except Busy:
            return False

    eventually(recovered, "never recovered")  # the threads note the end right after it


def test_while_a_thread_still_works_new_work_waits_for_it(gate: threading.Event) -> None:
    """One that hangs keeps nobody from the other."""
    workers = Workers(threads=2, capacity=8, name="t")
    with pytest.raises(TimeoutError):
        workers.call(gate.wait, patience=0.05)
    busy, end, told = (threading.Event() for _ in range(3))
    workers.submit(partial(set_and_wait, busy, end), patience=LONG, done=lambda *_: None)
    busy.wait()
    answers: list[object] = []

    def done(result: int | None, error: Exception | None) -> None:
        answers.append((result, error))
        told.set()

    workers.submit(lambda: 1, patience=LONG, done=done)
    end.set()
    told.wait()
    assert answers == [(1, None)]


def test_too_much_waiting_work_is_refused(gate: threading.Event) -> None:
    """The queue is bounded."""
    workers = Workers(threads=1, capacity=2, name="t")
    running = threading.Event()
    workers.submit(lambda: set_and_wait(running, gate), patience=LONG, done=lambda *_: None)
    running.wait()
    for _ in range(2):
        workers.submit(lambda: None, patience=LONG, done=lambda *_: None)
    with pytest.raises(Busy):
        workers.call(lambda: 1, patience=LONG)


def test_a_listener_that_raises_stops_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next work is done."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    workers = Workers(threads=1, capacity=2, name="t")
    workers.submit(lambda: 1, patience=LONG, done=broken)
    assert workers.call(lambda: 2, patience=LONG) == 2
    assert "telling the end of some work failed" in caplog.text


def test_threads_end_when_told_to() -> None:
    """Nothing is left behind."""
    workers = Workers(threads=3, capacity=4, name="ending")
    assert workers.call(lambda: 1, patience=0.01) == 1
    workers.stop()
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith("ending")]:
        thread.join(10)
        assert not thread.is_alive()
