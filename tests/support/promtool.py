"""Prometheus' and Alertmanager's programs, for the tests of what is deployed with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from support.needs import lacking

FETCHED: Final = Path(__file__).resolve().parents[2] / "build" / "prometheus" / "usr" / "bin"
"""Where `make prometheus` puts the programs of machines that have none."""


def program(name: str) -> str:
    """Returns the path of prometheus, promtool or amtool; where it is missing the test is skipped or fails."""
    found = shutil.which(name) or shutil.which(name, path=str(FETCHED))
    if found is None:
        lacking(f"{name} is not installed; `make prometheus` gets it where apt-get works")
    return found


def run(name: str, *arguments: str | Path) -> str:
    """Runs a program and returns what it printed, errors included; the test fails with that if the program does."""
    command = [program(name), *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        pytest.fail(f"{name} {' '.join(command[1:])}:\n{result.stdout}", pytrace=False)
    return result.stdout
