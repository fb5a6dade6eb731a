"""What the command line writes to the standard output, and what it does where that fails; against a scripted server."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen.cli import main
from support import messages
from support.command import Run
from support.scripted_service import WAIT, ScriptedService, serving


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    """A running server."""
    with serving(ScriptedService()) as running:
        yield running


@pytest.mark.parametrize(
    ("words", "mime_type"),
    [(["-o", "-"], "image/png"), (["-o", "-", "--format", "webp"], "image/webp"), (["-o", "/dev/stdout"], "image/png")],
)
def test_the_standard_output_can_take_the_image(
    service: ScriptedService, capsysbinary: pytest.CaptureFixture[bytes], words: list[str], mime_type: str
) -> None:
    """The image alone: what else there is to say goes to the error stream."""
    code = main(["generate", "a", *words], {"IMAGEGEN_SERVER": service.target})
    out, err = capsysbinary.readouterr()
    assert (code, out) == (0, messages.picture())
    assert b"wrote /dev/stdout (seed" in err
    assert service.requests[0].output.mime_type == mime_type


@pytest.mark.parametrize("words", [["generate", "a", "-o", "-", "--json"], ["watch", "x", "-o", "-", "--json"]])
def test_an_object_and_an_image_do_not_share_the_standard_output(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """A program could read neither."""
    run = Run(capsys, service, *words)
    assert (run.code, run.json["error"]["message"]) == (2, "--json and the image cannot both have the standard output")


def test_no_image_is_sent_to_a_terminal(service: ScriptedService) -> None:
    """Whoever asks for it forgot to redirect."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "imagegen.cli", "generate", "a", "-o", "-", "--server", service.target]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=WAIT, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert "the standard output is a terminal" in done.stderr
    assert service.requests == []


def piped(service: ScriptedService, words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command in a shell, where `imagegen` is the command line and `$status` what it ends with."""
    script = f'imagegen() {{ {shlex.quote(sys.executable)} -m imagegen.cli "$@"; echo "$?" >&3; }}; {words}'
    environment = os.environ | {"IMAGEGEN_SERVER": service.target, "PYTHONUNBUFFERED": ""} | variables
    reading, writing = os.pipe()
    command = ["bash", "-c", f"exec 3>&{writing}; {script}"]
    done = subprocess.run(command, env=environment, capture_output=True, pass_fds=(writing,), timeout=WAIT, check=False)
    os.close(writing)
    with open(reading, "rb") as file:
        done.returncode = int(file.read())
    return done


@pytest.mark.parametrize(
    "command", ["models", "models --json", "cancel none --json", "--help", "generate a -o -"], ids=lambda text: text
)
def test_a_reader_that_leaves_is_no_reason_to_complain(service: ScriptedService, command: str) -> None:
    """As `head` does; the exit code tells that not everything was read."""
    done = piped(service, f"imagegen {command} | sleep 0")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Traceback" not in done.stderr
    assert b"Broken pipe" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", ["models", "models --json", "cancel none --json", "generate a -o -"])
def test_a_full_disk_is_told(service: ScriptedService, command: str) -> None:
    """The result is lost, and that is said."""
    done = piped(service, f"imagegen {command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.endswith(b"imagegen: the standard output: [Errno 28] No space left on device\n")


def test_what_a_terminal_cannot_show_is_escaped(service: ScriptedService, tmp_path: Path) -> None:
    """Names of files that are no text, or none in this encoding; the help is plain."""
    name = os.fsdecode(b"caf\xc3\xa9 \xff \xe2\x82\xac.png")
    words = shlex.join(["-o", str(tmp_path / name)])
    done = piped(service, f"imagegen generate a {words}", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert rb"caf\xe9 \udcff \u20ac.png (seed" in done.stdout
    assert os.listdir(tmp_path) == [name]
    helped = piped(service, "imagegen generate --help", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert (helped.returncode, helped.stderr) == (0, b"")
