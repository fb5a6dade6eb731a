"""`make observe` end to end: two servers, a real Prometheus, a load with faults, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imagegen_server.core import Outcome
from imagegen_server.observe.kinds import FAKE_ARGUMENTS, FAKE_MIX, MODEL_MIX
from imagegen_server.observe.load import Ended, drive
from imagegen_server.observe.prometheus import QueryError, prometheus
from imagegen_server.observe.summary import FALLBACKS, OUTCOMES, what_was_seen
from support.live_server import LiveServer, live_server
from support.load import FULL
from support.needs import lacking
from support.waiting import SETTLE_SECONDS, eventually

OBSERVE = (sys.executable, "-m", "imagegen_server.observe")
SIGNALS = [("starting", signal.SIGTERM), ("driving", signal.SIGINT)]
if FULL:
    SIGNALS += [("starting", signal.SIGINT), ("driving", signal.SIGTERM)]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _needs_prometheus() -> None:
    """Observe looks for it on PATH only."""
    if shutil.which("prometheus") is None:
        lacking("the program prometheus is not on PATH")


def counts_in(text: str) -> dict[str, int]:
    """Returns what a line such as `ok 3, error 1` says."""
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", text)}


def line_after(start: str, text: str) -> str:
    """Returns the rest of the line that begins with `start`."""
    found = re.search(rf"^\s*{re.escape(start)}(.*)$", text, re.MULTILINE)
    assert found, f"no line begins with {start!r} in\n{text}"
    return found[1]


@pytest.mark.timeout(900)
def test_what_is_printed_is_what_happened() -> None:
    """Callers and Prometheus agree on every end; addresses, alerts and stages are there; the exit is clean."""
    done = subprocess.run(
        [*OBSERVE, "--seconds", "5"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=880
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    told = counts_in(re.findall(r"calls end: (.*)$", done.stdout, re.MULTILINE)[0])
    seen: Counter[str] = Counter()
    for model in ("fake", "shapes", "other"):
        seen.update(counts_in(line_after(f"{model} ", done.stdout)))
    assert dict(seen) == told
    assert "which differs" not in done.stdout
    assert min(told[outcome] for outcome in ("ok", "degraded", "cancelled", "invalid", "rejected", "error")) >= 1
    live = re.findall(r"^  live +(.+) top --url (http://127\.0\.0\.1:\d+/metrics)$", done.stdout, re.MULTILINE)
    assert len(live) == 2
    without_path = {name: value for name, value in os.environ.items() if name != "PATH"}
    for command, _ in live:  # no environment need be activated for it
        helped = [*shlex.split(command), "top", "--help"]
        assert subprocess.run(helped, env=without_path, capture_output=True, check=False, timeout=60).returncode == 0
    assert len(re.findall(r"http://127\.0\.0\.1:\d+/graph\?g0\.expr=", done.stdout)) >= 5
    for stage in ("text_encode", "base", "refiner", "vae_decode"):
        assert re.fullmatch(r"( +(< )?\d+\.\d\d){2}", line_after(f"{stage} ", done.stdout).rstrip())
    assert {"oom", "nan", "error"} <= set(counts_in(line_after("fallbacks ", done.stdout)))
    assert line_after("alerts firing ", done.stdout).strip()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, LiveServer]]:
    """A server in the place of a real model, and one that is made for the faults."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    with live_server(first, *FAKE_ARGUMENTS) as model, live_server(second, *FAKE_ARGUMENTS) as fake:
        yield model, fake


def test_the_load_is_the_same_each_time_and_a_real_prometheus_sees_it(two: tuple[LiveServer, LiveServer]) -> None:
    """Every kind is called; counts by outcome are those of the servers' metrics, and of Prometheus."""
    model, fake = two
    ends: list[Ended] = []
    counts = asyncio.run(drive(model.address, fake.address, 0.1, ends.append))
    assert counts == Counter(dict.fromkeys(Outcome, 0)) + Counter(ended.outcome for ended in ends)
    for server, mix in ((model, MODEL_MIX), (fake, FAKE_MIX)):
        names = [ended.kind for ended in ends if ended.server == server.address]
        assert set(names) == {kind.name for kind in mix}
        expected = {kind.name: {kind.outcome, *((Outcome.REJECTED,) if kind.crowd else ())} for kind in mix}
        surprises = [each for each in ends if each.server == server.address and each.outcome not in expected[each.kind]]
        assert not surprises
        eventually(server.idle, "a generation stays in flight")
    for server in two:
        for outcome in Outcome:
            mine = sum(ended.outcome is outcome for ended in ends if ended.server == server.address)
            assert server.metrics().total("imagegen_request_duration_seconds_count", outcome=outcome) == mine, outcome
    crowd = Counter(ended.code for ended in ends if ended.kind == "crowd")
    assert crowd["RESOURCE_EXHAUSTED"] >= 1
    assert crowd["OK"] >= 8
    with prometheus([f"127.0.0.1:{server.metrics_port}" for server in two]) as seen:
        eventually(
            lambda: sum(series.value for series in seen.instant(OUTCOMES)) == counts.total(),
            lambda: f"{seen.instant(OUTCOMES)} is not {counts}",
        )
        reasons = {series.labels["reason"] for series in seen.instant(FALLBACKS) if series.value}
        assert reasons >= {"oom", "nan", "error"}
        assert "fallbacks " in what_was_seen(seen)
        with pytest.raises(QueryError, match="parse error"):
            seen.instant("sum(")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("when", "number"), SIGNALS)
def test_a_signal_leaves_nothing_behind(when: str, number: signal.Signals) -> None:
    """While servers load and while they are driven: every process that was started ends, and soon."""
    process = subprocess.Popen(
        [*OBSERVE, "--seconds", "600"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _read_until(process, when.encode())
        eventually(lambda: bool(_children(process)), "nothing was started")
        started = _children(process)
        process.send_signal(number)
        output, errors = process.communicate(timeout=SETTLE_SECONDS * 2)
    finally:
        for child in _children(process):
            child.kill()
        process.kill()
        process.wait()
    assert process.returncode == 128 + number, (output, errors)
    assert b"Traceback" not in errors, errors
    assert not [child for child in started if child.is_running()]


def test_a_missing_configuration_is_told_and_stops_what_was_started(tmp_path: Path) -> None:
    """Without Prometheus on PATH the status is 3 and no server is started for nothing."""
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(OBSERVE, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert "apt-get install prometheus" in done.stderr


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _read_until(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Reads a process's standard output until a text has appeared."""
    assert process.stdout is not None
    found, began = b"", time.monotonic()
    while text not in found:
        assert time.monotonic() - began < 10 * SETTLE_SECONDS, found
        if select.select([process.stdout], [], [], 0.1)[0]:
            found += os.read(process.stdout.fileno(), 65536)
        assert process.poll() is None, found
