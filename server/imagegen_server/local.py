"""A server of one's own for the length of a block: what the demo and the embedded pair's measurements talk to."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagegen_server.child import ready_child

START_SECONDS = 300.0
"""How long the server may take to load."""

_STOP_SECONDS = 60.0


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


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Serving]:
    """Runs `imagegen-server` on free ports of 127.0.0.1 with further arguments, and drains it at the end.

    Raises ServerDidNotStart.
    """
    with tempfile.TemporaryDirectory() as folder:
        ports, log = Path(folder, "ports.json"), Path(folder, "server.log")
        free = ("--port", "0", "--metrics-port", "0", "--port-file", str(ports))
        command = [sys.executable, "-m", "imagegen_server", *arguments, *free]
        began = time.monotonic()
        with ready_child(
            command,
            log,
            name="the server",
            ready=ports.exists,
            start_seconds=START_SECONDS,
            stop_seconds=_STOP_SECONDS,
            failure=ServerDidNotStart,
            stdout=None,  # this process's
        ) as process:
            bound = json.loads(ports.read_text())
            yield Serving(
                address=f"127.0.0.1:{bound['port']}",
                metrics_port=bound["metrics_port"],
                images_port=bound["images_port"],
                log=log,
                seconds=time.monotonic() - began,
                process=process,
            )
