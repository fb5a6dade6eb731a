"""Processes for the length of a block, and signals that come at the worst moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from imagegen_server.child import SIGNALS, child

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
DEAF = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)",
)
SIGNALLED = f"""
import os, signal, sys
from imagegen_server.child import child, end_on_signals
end_on_signals()
when, number = sys.argv[1], int(sys.argv[2])
hit = lambda: os.kill(parent, number)
parent = os.getpid()
with child({SLEEP}, stop_seconds=20, preexec_fn=hit if when == "made" else None) as process:
    print(process.pid, flush=True)
    if when == "during":
        hit()
    terminate = process.terminate
    process.terminate = lambda: (hit() if when == "ended" else None, terminate())
print("not reached", flush=True)
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("when", ["made", "during", "ended"])
def test_a_signal_at_any_moment_leaves_no_process(when: str, number: signal.Signals) -> None:
    """Also if it comes before the process has a name that one could end it by; whoever waits is told of the signal."""
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, when, str(number.value)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        output, errors = parent.communicate(timeout=60)
    assert (parent.returncode, errors) == (128 + number, b"")
    assert b"not reached" not in output
    assert not [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == list(SLEEP)]


def test_a_process_that_heeds_no_signal_is_ended_by_force() -> None:
    """After the time it was given."""
    with child(DEAF, stop_seconds=0.05, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def test_handlers_are_as_before() -> None:
    """Those in Python, and a SIGHUP that is ignored, which the process inherits."""
    before = [signal.getsignal(number) for number in SIGNALS]
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with child(SLEEP, stop_seconds=20) as process:
            ignored = int(_status_of(process.pid, "SigIgn"), 16)
            assert ignored & 1 << (signal.SIGHUP - 1)
    finally:
        signal.signal(signal.SIGHUP, hangup)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def _status_of(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
