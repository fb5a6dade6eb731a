"""The Makefile where it meets a newcomer's machine: an old Python, and a prompt with anything in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.needs import lacking

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs make here, with more environment variables."""
    program = shutil.which("make")
    if program is None:
        lacking("make is not installed")
    command = [program, "--silent", "--no-print-directory", *arguments]
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # `make test`'s own
    environment = outer | variables
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60, encoding="utf-8"
    )


def script(path: Path, text: str) -> Path:
    """Writes a program for sh and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment that has everything, and whose Python prints its arguments."""
    made = tmp_path / "venv"
    script(made / "bin" / "python", "printf '[%s]\\n' \"$@\"")
    script(made / "bin" / "pip", "exit 1")
    (made / ".server").touch()
    return made


@pytest.mark.parametrize(
    "prompt",
    [
        "a red circle",
        'a "red" circle',
        "it's a circle",
        "a `id` and $(id)",
        "a $HOME of \\ shapes",
        "a circle; id # no",
    ],
)
def test_a_prompt_reaches_the_demo_as_it_was_typed(environment: Path, prompt: str) -> None:
    """Whatever is in it, and whether it is an argument of make or a variable of the environment."""
    expected = f"[-m]\n[imagegen_server.demo]\n[{prompt}]\n"
    assert make("demo", f"VENV={environment}", f"PROMPT={prompt}").stdout == expected
    assert make("demo", f"VENV={environment}", PROMPT=prompt).stdout == expected


@pytest.mark.parametrize("goal", ["demo", "test"])
def test_an_old_python_is_told_before_pip_looks_for_releases(tmp_path: Path, goal: str) -> None:
    """What is too old, and what to type instead; nothing is made."""
    old = script(tmp_path / "python3", 'case "$*" in *version_info*) exit 1;; esac; touch "$0.was-asked-for-more"')
    found = make(goal, f"VENV={tmp_path / 'venv'}", f"PYTHON={old}", OMP_NUM_THREADS="1")
    assert found.returncode == 2
    assert f"ImageGen needs Python 3.11 or newer: make {goal} PYTHON=python3.12" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["python3"]
