"""Files that are read again when they change, however often they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

_SETTLED: Final = 2.0
"""Seconds after which a file's time of change tells it from a later change; file systems' clocks are coarse."""

_T = TypeVar("_T")
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


class Current(Generic[_T]):
    """What some files say; as long as they cannot be used, what they said before. Not thread-safe."""

    def __init__(
        self, paths: Sequence[Path], parse: Callable[[Sequence[bytes]], _T], on_change: Callable[[str], None]
    ) -> None:
        """Reads the files.

        Args:
            paths: the files.
            parse: makes of their contents what they say; raises ValueError.
            on_change: hears `reloaded` when they say something else, or, once, why changed files are not used.

        Raises OSError, or what `parse` raises.
        """
        self._watched = WatchedFiles(paths)
        self._parse = parse
        self._on_change = on_change
        self._broken = ""
        self._value = parse(self._watched.news() or ())

    def look(self) -> _T:
        """Returns what the files say, after a look at whether they have changed."""
        try:
            contents = self._watched.news()
            if contents is None:
                return self._value
            value = self._parse(contents)
        except (OSError, ValueError) as error:
            if str(error) != self._broken:
                self._broken = str(error)
                self._on_change(f"not used: {error}")
            return self._value
        self._broken = ""
        if value != self._value:  # looked at while they are written, the same files are new twice
            self._value = value
            self._on_change("reloaded")
        return self._value
