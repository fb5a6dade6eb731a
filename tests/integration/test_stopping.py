"""A server that is told to stop while it starts: in order, at whatever moment, and without other people's noise."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from support.live_server import START_SECONDS
from support.load import size
from support.waiting import SETTLE_SECONDS, eventually

SERVER: Final = (
    "import sys; from imagegen_server.__main__ import main; print('begun', flush=True); sys.exit(main())",
    *("--model", "shapes", "--port", "0", "--metrics-port", "0"),
)
OWN_EVENTS: Final = {"loading", "memory plan", "serving", "signal", "draining", "stopped"}
PARTS: Final = size(4, 12)
"""Moments of a start at which it is told to stop."""


@contextmanager
def begun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a server whose program has just begun: what Python does before, nobody can speak for."""
    command = [sys.executable, "-c", *SERVER, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "begun\n"
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long a server takes on this machine from its beginning to serving."""
    path = tmp_path_factory.mktemp("ports") / "ports.json"
    with begun("--port-file", str(path)) as server:
        began = time.monotonic()
        while not path.exists():
            assert server.poll() is None
            assert time.monotonic() - began < START_SECONDS
            time.sleep(0.01)
        return time.monotonic() - began


def stopped_after(seconds: float, number: signal.Signals) -> tuple[int, list[dict[str, Any]]]:
    """Returns the status of a server that a signal reached then, and its log, in which is nothing but lines of JSON."""
    with begun() as server:
        time.sleep(seconds)
        server.send_signal(number)
        _, errors = server.communicate(timeout=SETTLE_SECONDS)
    try:
        return server.returncode, [json.loads(line) for line in errors.splitlines()]
    except json.JSONDecodeError:
        raise AssertionError(f"status {server.returncode}:\n{errors}") from None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_can_be_stopped_at_any_moment(number: signal.Signals, seconds: float) -> None:
    """The status is 0 once the log has begun, and the signal's before."""
    seen = set()
    for part in range(1, PARTS + 1):
        status, log = stopped_after(seconds * part / PARTS, number)
        events = [line["event"] for line in log]
        seen.add(" ".join(events))
        assert not set(events) - OWN_EVENTS, (part, log)
        if "loading" in events:
            assert (status, events.count("stopped")) == (0, 1), (part, log)
        else:
            assert status in (0, *killed_by(number)), (part, log)
    assert "loading signal stopped" in seen, "no signal came while it loaded"


def killed_by(number: signal.Signals) -> tuple[int, int]:
    """Returns the statuses of a process that a signal ended, as the system and as a shell tell it."""
    return -number, 128 + number


def test_a_server_that_served_says_that_it_stopped(tmp_path: Path) -> None:
    """In the last line of its log, with the status."""
    path = tmp_path / "ports.json"
    with begun("--model", "fake", "--port-file", str(path)) as server:
        eventually(path.exists, "it does not serve")
        server.terminate()
        _, errors = server.communicate(timeout=SETTLE_SECONDS)
    last = json.loads(errors.splitlines()[-1])
    assert (server.returncode, last["event"], last["exit_status"]) == (0, "stopped", 0)
