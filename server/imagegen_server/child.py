"""Processes that last no longer than a block, however and whenever that ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a program that its user no longer wants."""


def end_on_signals() -> None:
    """Lets each of SIGNALS raise SystemExit, so that what this process started is ended on its way out."""
    for number in SIGNALS:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one would leave orphans
    raise SystemExit(128 + number)


@contextlib.contextmanager
def child(command: Sequence[str | Path], *, stop_seconds: float, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process for the length of a block, and ends it then: by force if it does not heed SIGTERM in time.

    A signal that raises, as those of `end_on_signals` do, waits while the process is made, when nobody could end it
    yet, and while it is ended.

    Args:
        command: the program and its arguments.
        stop_seconds: how long it may take to end once told.
        options: for `subprocess.Popen`, whose errors are raised.
    """
    process = None
    try:
        with _signals_waiting():
            process = subprocess.Popen(command, **options)
        yield process
    finally:
        if process is not None:
            _end_surely(process, stop_seconds)


def wait_until_ready(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], *, seconds: float, failure: Callable[[], Exception]
) -> None:
    """Asks again and again whether a process is ready. Raises `failure()` if it has ended or takes longer."""
    began = time.monotonic()
    while not ready():
        if process.poll() is not None or time.monotonic() - began > seconds:
            raise failure()
        time.sleep(0.05)


def _end_surely(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        with _signals_waiting():
            _stop(process, seconds)
    finally:
        if process.poll() is None:  # a signal came before it had to wait
            _stop(process, seconds)


def _stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _signals_waiting() -> Iterator[None]:
    """Lets each of SIGNALS that has a handler in Python call it after the block only."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other runs handlers, nor may it set them
        # ignored ones and defaults stay as they are: a new process would not inherit them from a handler
        handlers = {number: signal.getsignal(number) for number in SIGNALS if callable(signal.getsignal(number))}
    try:
        for number in handlers:
            signal.signal(number, hear)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])
