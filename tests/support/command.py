"""Runs of the command line in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imagegen.cli import main
from support.scripted_service import ScriptedService


class Run:
    """What one command did."""

    def __init__(self, capsys: pytest.CaptureFixture[str], service: ScriptedService, *words: str) -> None:
        self.code = main(words, {"IMAGEGEN_SERVER": service.target})
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> Any:
        """The one JSON object of the standard output."""
        (line,) = self.out.splitlines()
        return json.loads(line)
