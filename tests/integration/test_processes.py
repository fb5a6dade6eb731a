"""What programs leave behind: processes that are told to end, and files that tell where a server is."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.live_server import COMMAND, live_server
from support.waiting import SETTLE_SECONDS, eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_told_to_end_stops_its_server(number: signal.Signals, tmp_path: Path) -> None:
    """While the model loads, as at any other time; without a traceback."""
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "imagegen_server.demo"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with demo:
        parent = psutil.Process(demo.pid)
        eventually(lambda: bool(parent.children()), "no server was started")
        servers = parent.children()
        demo.send_signal(number)
        output, errors = demo.communicate(timeout=10 * SETTLE_SECONDS)
    assert demo.returncode == 128 + number
    assert b"5. the server has stopped" in output
    assert b"Traceback" not in errors, errors
    assert not [server for server in servers if server.is_running()]


def test_a_port_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """Before anything is loaded, with a status that is not that of a lost device."""
    path = tmp_path / "missing" / "ports.json"
    done = subprocess.run(_command(path), capture_output=True, text=True, check=False, timeout=10 * SETTLE_SECONDS)
    assert done.returncode == 3
    assert f"the port file {path} cannot be written: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_limits_that_admit_nothing_stop_the_start(tmp_path: Path) -> None:
    """Before anything is loaded: a model can be gigabytes to download."""
    command = [*_command(tmp_path / "ports.json"), "--max-steps", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10 * SETTLE_SECONDS)
    assert done.returncode == 3
    assert done.stderr == "imagegen-server: min_steps 20 is above max_steps 5\n"


def test_a_port_file_of_an_earlier_server_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    """It is away as soon as the server logs, and there again when it serves."""
    path = tmp_path / "ports.json"
    path.write_text('{"port": 1}')
    with subprocess.Popen(_command(path), stderr=subprocess.PIPE) as server:
        try:
            assert server.stderr is not None
            assert select.select([server.stderr], [], [], 10 * SETTLE_SECONDS)[0]
            assert not path.exists() or '"port": 1}' not in path.read_text()
            eventually(path.exists, "the ports were not written")
            assert '"port": 1}' not in path.read_text()
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=10 * SETTLE_SECONDS)
    assert [each.name for each in tmp_path.iterdir()] == ["ports.json"]


def test_a_server_that_does_not_get_its_port_leaves_the_others_port_file(tmp_path: Path) -> None:
    """The one that serves would not write it again."""
    with live_server(tmp_path) as server:
        path = tmp_path / "ports.json"
        told = path.read_text()
        command = [*_command(path), "--port", server.address.rpartition(":")[2]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10 * SETTLE_SECONDS)
        assert done.returncode == 3, done.stderr
        assert path.read_text() == told


def test_a_second_server_says_which_options_help(tmp_path: Path) -> None:
    """The port for metrics is the first that it does not get."""
    with live_server(tmp_path) as server:
        command = [*COMMAND, "--model", "fake", "--port", "0", "--metrics-port", str(server.metrics_port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10 * SETTLE_SECONDS)
    assert done.returncode == 3
    assert done.stderr == (
        f"imagegen-server: cannot serve metrics on 127.0.0.1:{server.metrics_port}: Address already in use; "
        "is another imagegen-server running? --metrics-port and --port choose others\n"
    )


def _command(port_file: Path) -> list[str]:
    ports = ("--port", "0", "--metrics-port", "0", "--port-file", str(port_file))
    return [*COMMAND, "--model", "fake", *ports]
