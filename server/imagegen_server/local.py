"""A server of one's own for the length of a block: what the demo and the embedded pair's measurements talk to."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

START_SECONDS = 300.0
"""How long the server may take to load."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerDidNotStart(Exception):
    """The process ended, or took too long; the message holds its log."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Serving:
    """A running server."""

    address: str
    """For a client: host and port."""
    metrics_port: int
    images_port: int | None
    """None if the arguments ask for none."""
    log: Path
    """What it wrote so far; gone after the block."""
    seconds: float
    """From the start of the process to SERVING."""
    process: subprocess.Popen[bytes]


def end_on_signals() -> None:
    """Lets SIGINT, SIGTERM and SIGHUP raise SystemExit, so that what this process started is ended on its way out."""
    for number in _SIGNALS:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one would leave orphans
    raise SystemExit(128 + number)


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Serving]:
    """Runs `imagegen-server` on free ports of 127.0.0.1 with further arguments, and drains it at the end.

    Raises ServerDidNotStart.
    """
    with tempfile.TemporaryDirectory() as folder:
        ports, log = Path(folder, "ports.json"), Path(folder, "server.log")
        free = ("--port", "0", "--metrics-port", "0", "--port-file", str(ports))
        with log.open("wb") as output:
            began = time.monotonic()
            process = subprocess.Popen([sys.executable, "-m", "imagegen_server", *arguments, *free], stderr=output)
            try:
                while not ports.exists():
                    if process.poll() is not None or time.monotonic() - began > START_SECONDS:
                        raise ServerDidNotStart(f"the server did not start:\n{log.read_text(errors='replace')}")
                    time.sleep(0.05)
                bound = json.loads(ports.read_text())
                yield Serving(
                    address=f"127.0.0.1:{bound['port']}",
                    metrics_port=bound["metrics_port"],
                    images_port=bound["images_port"],
                    log=log,
                    seconds=time.monotonic() - began,
                    process=process,
                )
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:  # nothing is left behind
                    process.kill()
                    process.wait()
