"""Single keys from a terminal, which is left as it was found."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from types import TracebackType
from typing import Any, Self


class Keys:
    """Reads keys from standard input for the length of a block. Without a terminal there it only waits."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        if sys.stdin is not None and sys.stdin.isatty():
            self._file = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)  # keys without Enter and without echo; Ctrl-C stays a signal
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """Returns what was typed within `seconds`; empty if nothing was."""
        if self._file is None:
            time.sleep(seconds)
            return ""
        if not select.select([self._file], [], [], seconds)[0]:
            return ""
        typed = os.read(self._file, 64)
        if not typed:  # the terminal is gone
            self._file = None
        return typed.decode(errors="replace")
