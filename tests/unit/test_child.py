"""Processes for the length of a block, and signals that come at the worst moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from imagegen_server.child import SIGNALS, answers, child, free_port, ready_child

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
DEAF = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)",
)
SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/there" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""
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


def test_what_ends_before_it_is_ready_is_told_with_its_log(tmp_path: Path) -> None:
    """At once, however long it may take; standard output and error are in one log."""
    program = "print('no licence', flush=True); raise SystemExit('gone')"
    with (
        pytest.raises(LookupError, match=r"^the thing did not start:\nno licence\ngone\n$"),
        _ready_when(lambda: False, program, tmp_path / "log", start_seconds=3600),
    ):
        pytest.fail("it never was ready")


def test_what_takes_too_long_to_be_ready_is_ended(tmp_path: Path) -> None:
    """And told as well."""
    with (
        pytest.raises(LookupError, match=r"^the thing did not start:\n"),
        _ready_when(lambda: False, SLEEP[2], tmp_path / "log", start_seconds=0),
    ):
        pytest.fail("it never was ready")
    assert not [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == list(SLEEP)]


def test_the_block_begins_when_the_process_answers(tmp_path: Path) -> None:
    """A free port is one that a server can have; a path that it lacks, and its end, are no answer."""
    address = f"127.0.0.1:{(port := free_port())}"
    assert not answers(address, "/there")
    with _ready_when(lambda: answers(address, "/there"), SERVER.format(port=port), tmp_path / "log", start_seconds=60):
        assert answers(address, "/there")
        assert not answers(address, "/elsewhere")
    assert not answers(address, "/there")
    assert "GET /there" in (tmp_path / "log").read_text()


def _ready_when(
    ready: Callable[[], bool], program: str, log: Path, *, start_seconds: float
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return ready_child(
        (sys.executable, "-c", program),
        log,
        name="the thing",
        ready=ready,
        start_seconds=start_seconds,
        stop_seconds=20,
        failure=LookupError,
    )


def _status_of(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
