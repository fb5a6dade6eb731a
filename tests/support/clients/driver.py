"""A driver process: takes a case, gives an answer."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

from support.clients.paths import ROOT

ANSWER_SECONDS: Final = 100.0
"""How long an answer may take before the driver is given up; the table's deadlines are shorter."""


class Driver:
    """A program that reads cases and writes answers, a JSON line each."""

    def __init__(self, command: tuple[str, ...], log: Path) -> None:
        """Starts it; what it writes to standard error goes to the log."""
        self._log = log
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*_python_path(), str(ROOT / "tests")])}
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
            )
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, line: str) -> dict[str, Any]:
        """Returns the answer to a case. Raises AssertionError with the log if there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._answers.get(timeout=ANSWER_SECONDS))
        except (OSError, queue.Empty, json.JSONDecodeError) as error:
            raise AssertionError(f"no answer ({error!r}): {self._log.read_text(errors='replace')}") from error
        return answer

    def close(self) -> None:
        """Ends the program."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")  # ends a waiting run


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
