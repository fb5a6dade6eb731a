"""Processes that last no longer than a block, however and whenever that ends, and what shows that one serves."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a program that its user no longer wants."""
_ASK_AGAIN: Final = 0.05
"""Seconds between two looks at whether a process is ready."""


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


@contextlib.contextmanager
def ready_child(
    command: Sequence[str | Path],
    log: Path,
    *,
    name: str,
    ready: Callable[[], bool],
    start_seconds: float,
    stop_seconds: float,
    failure: type[Exception],
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process like `child`, whose block begins once the process is ready.

    Args:
        command: the program and its arguments.
        log: a file for what it writes, emptied before.
        name: what it is called where it does not start.
        ready: whether it is; asked again and again.
        start_seconds: how long it may take to be.
        stop_seconds: how long it may take to end once told.
        failure: what is raised, with the log, if it has ended or takes longer.
        options: for `subprocess.Popen`, whose errors are raised; with `stdout` the log has the standard error only.
    """
    with (
        log.open("wb") as output,
        child(command, stop_seconds=stop_seconds, **{"stdout": output, "stderr": output, **options}) as process,
    ):
        began = time.monotonic()
        while not ready():
            if process.poll() is not None or time.monotonic() - began > start_seconds:
                raise failure(f"{name} did not start:\n{log.read_text(errors='replace')}")
            time.sleep(_ASK_AGAIN)
        yield process


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nobody listens on; somebody may before long."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str, path: str) -> bool:
    """Returns whether GET of a path at host:port is answered with 200 (OK), within 5 seconds."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


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
