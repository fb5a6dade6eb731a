"""Files that are read again when they change, however often they are asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SETTLED: Final = 2.0
"""Seconds after which a file's time of change tells it from a later change; file systems' clocks are coarse."""

_Stamp = tuple[tuple[int, int, int], ...]


class WatchedFiles:
    """The contents of some files. Not thread-safe."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._stamp: _Stamp | None = None
        self._contents: tuple[bytes, ...] | None = None

    def news(self) -> tuple[bytes, ...] | None:
        """Returns what the files contain if that is not what the last call saw, else None. Raises OSError."""
        stamp = self._look()
        if stamp is not None and stamp == self._stamp:
            return None
        contents = tuple(path.read_bytes() for path in self.paths)
        self._stamp = stamp  # taken before the reading: a change meanwhile is seen the next time
        if contents == self._contents:
            return None
        self._contents = contents
        return contents

    def _look(self) -> _Stamp | None:
        """Returns what changes with the files; None while one of them is too new for that to be sure."""
        stats = [path.stat() for path in self.paths]
        if time.time() - max(stat.st_mtime for stat in stats) < _SETTLED:
            return None
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)
