"""`imagegen-server top` against a real server: its figures are the server's, and the terminal is left as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.live_server import COMMAND, LiveServer, live_server, open_channel
from support.load import generate, request, slow_steps
from support.waiting import SETTLE_SECONDS, eventually

pytestmark = pytest.mark.slow

ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that has seen some of everything, and has a simulated GPU."""
    with live_server(tmp_path_factory.mktemp("top"), "--gpu-script", '{"temperature": 61}') as running:
        with open_channel(running.address) as channel:
            for prompt in ("a cat", "a dog", "a cat {refiner:oom}", "a cat {base:nan}"):
                generate(channel, request(prompt, num_images=2))
            generate(channel, request(num_inference_steps=1))
            generate(channel, request("a cat {base:stall=2@3}"), timeout=1.0)
        eventually(running.idle, "a generation stays in flight")  # the stall outlasts its caller
        yield running


def url(server: LiveServer) -> str:
    return f"http://127.0.0.1:{server.metrics_port}/metrics"


def once(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command into a pipe."""
    command = [*COMMAND, "top", "--interval", "0.2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_it_shows_what_the_server_counted(server: LiveServer) -> None:
    """Outcomes, codes, fallbacks and waste after known traffic; the warm-up is not among them."""
    done = once("--once", "--url", url(server))
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "● serving fake fp32" in text
    names = "ok|degraded|cancelled|deadline|rejected|invalid|error"
    table = dict(re.findall(rf"  ({names}) +(\d+) +\d+ *$", done.stdout, re.MULTILINE))
    assert table == {
        "ok": "2",
        "degraded": "1",
        "cancelled": "0",
        "deadline": "1",
        "rejected": "0",
        "invalid": "1",
        "error": "1",
    }
    assert "fallbacks oom 2" in text  # an image each
    assert "refusals invalid 1" in text
    assert re.search(r"gRPC calls OK 3, DeadlineExceeded 1, Internal 1, InvalidArgument 1\b", text), text
    assert "GPU 0 Simulated GPU" in text
    assert "61 °C" in text


def test_steps_and_stages_are_those_of_the_traffic(server: LiveServer) -> None:
    """Ended stages are counted as the server counts them."""
    text = once("--once", "--url", f"127.0.0.1:{server.metrics_port}").stdout
    counted = server.metrics().total("imagegen_stage_duration_seconds_count", stage="base", outcome="ok")
    (ended, failed) = re.findall(r"^base +(\d+) +(\d+) ", text, re.MULTILINE)[0]
    everything = server.metrics().total("imagegen_stage_duration_seconds_count", stage="base")
    assert counted >= 4
    assert (float(ended), float(ended) + float(failed)) == (counted, everything)


def test_rates_are_those_of_the_interval(tmp_path: Path) -> None:
    """While something runs its steps show; totals since the start are there without waiting."""
    with live_server(tmp_path) as server, open_channel(server.address) as channel:
        slow = request("a cat " + slow_steps(0.1, base=100), num_inference_steps=100)
        call = threading.Thread(target=lambda: generate(channel, slow))
        call.start()
        text = once("--once", "--interval", "1.5", "--url", url(server)).stdout
        server.terminate()
        call.join()
    rate = re.findall(r"^base .*?(\d+\.?\d*) +\d+ ms +\d+ ms +\d+ *$", text, re.MULTILINE)
    assert rate, text
    assert float(rate[0]) > 0
    assert re.search(r"in flight +\S+ 1, at most 1", text), text


def test_a_pipe_gets_one_page_without_escape_codes(server: LiveServer) -> None:
    """Without a terminal it prints once, asked to or not."""
    done = once("--url", url(server))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert done.stdout.count("Generations") == 1
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_nobody_at_the_address_is_said_in_a_line() -> None:
    """Status 1 and the reason."""
    done = once("--once", "--url", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "imagegen-server top: no answer: connection refused\n"


@pytest.mark.parametrize(
    "wrong", [["--url", "file:///etc/passwd"], ["--interval", "0"], ["--window", "nan"], ["--port", "1"], ["--on"]]
)
def test_wrong_options_are_refused(wrong: list[str]) -> None:
    """Status 2, and which option it is."""
    done = once(*wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr


def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(tmp_path: Path) -> None:
    """A file with two tokens, say: the message names the file."""
    file = tmp_path / "token"
    file.write_text("SECRET\nSECOND\n")
    done = once("--token-file", str(file))
    assert done.returncode == 2
    assert str(file) in done.stderr
    assert "SEC" not in done.stderr


def test_it_starts_without_what_serves() -> None:
    """Neither torch nor grpc nor the engine is imported, so that it is there at once."""
    heavy = "{'torch', 'diffusers', 'grpc', 'pydantic', 'imagegen_server.engine', 'imagegen_server.telemetry'}"
    code = f"import sys, imagegen_server.top; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def _take_terminal() -> None:
    """Lets Ctrl-C reach this process, also where its parent ignores it, as shells let background jobs do."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A pseudo-terminal with the command in it."""

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 40) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = self.settings()
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [*COMMAND, "top", "--interval", "0.2", *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - two system calls are safe between fork and exec
        )
        self.output = ""

    def settings(self) -> list[Any]:
        """Returns how the terminal is set."""
        return termios.tcgetattr(self._slave)

    def type(self, keys: str) -> None:
        """Types."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Changes the window's size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: str) -> None:
        """Reads until a text has appeared since the last call."""
        began, self.output = time.monotonic(), ""
        while text not in self.output:
            assert time.monotonic() - began < SETTLE_SECONDS, f"{text!r} is not in {self.output!r}"
            self._read()

    def end(self) -> int:
        """Reads on until the command has ended; returns its status."""
        while self.process.poll() is None:
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        ready = bool(select.select([self._master], [], [], 0.1)[0])
        if ready:
            self.output += os.read(self._master, 65536).decode(errors="replace")
        return ready

    def close(self) -> None:
        """Ends everything."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminal(server: LiveServer) -> Iterator[Terminal]:
    """The command in a terminal of its own, looking at the server."""
    opened = Terminal("--url", url(server))
    yield opened
    opened.close()


@pytest.mark.parametrize(("leave", "status"), [("q", 0), ("\x03", 0), ("\x04", 0), (signal.SIGTERM, 143)])
def test_it_leaves_the_terminal_as_it_was(terminal: Terminal, leave: str | signal.Signals, status: int) -> None:
    """q, Ctrl-C, Ctrl-D and SIGTERM: the old screen, the cursor, echo and line mode are back."""
    terminal.until("Generations")
    assert terminal.settings() != terminal.before
    if isinstance(leave, str):
        terminal.type(leave)
    else:
        terminal.process.send_signal(leave)
    assert terminal.end() == status
    assert terminal.settings() == terminal.before
    assert LEAVE_SCREEN in terminal.output
    assert SHOW_CURSOR in terminal.output
    assert "Traceback" not in terminal.output


def test_it_follows_the_windows_size(terminal: Terminal) -> None:
    """A terminal that becomes wide gets the wide page."""
    terminal.until("q or Ctrl-C ends")
    terminal.resize(150, 40)
    wide = "─" * 40 + "\x1b[0m  "  # a title that does not reach the right margin
    terminal.until(wide)
    terminal.type("q")
    assert terminal.end() == 0


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    """The silence is told, the last figures stay, and a new server at the address is taken up."""
    with live_server(tmp_path) as server:
        port = server.metrics_port
        terminal = Terminal("--url", url(server))
        try:
            terminal.until("serving")
            server.terminate()
            assert server.wait() == 0
            terminal.until("no answer since")
            terminal.until("what follows is from before")
            again = tmp_path / "again"
            again.mkdir()
            with live_server(again, "--metrics-port", str(port)) as successor:
                with open_channel(successor.address) as channel:
                    generate(channel, request())
                terminal.until("rates, stages")
                while "no answer" in terminal.output:
                    terminal.until("rates, stages")
                terminal.type("q")
                assert terminal.end() == 0
        finally:
            terminal.close()


def test_the_help_of_the_server_names_it() -> None:
    """Whoever asks for help learns of it."""
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert "top" in done.stdout.splitlines()[0]
    assert "top --help" in " ".join(done.stdout.split())
