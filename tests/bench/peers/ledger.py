"""Who used the device when: written by every system around each call of its models, read by the load generator.

All processes of a machine share the monotonic clock, so that the instants of a system can be compared with those of
its callers. A system accounts for a whole pipeline call, or for a single step, whichever it calls at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "IMAGEGEN_BENCH_LEDGER"
"""Environment variable with the path of the file."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Entry:
    """One call of the models. Instants of the monotonic clock."""

    keys: tuple[str, ...]
    """The requests that it worked for, in equal parts."""
    began: float
    ended: float


class Ledger:
    """Appends entries to a file, one line each, at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @contextmanager
    def call(self, keys: Sequence[str]) -> Iterator[None]:
        """Accounts for the time of the context, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._file.write(f"{json.dumps([list(keys), began, time.monotonic()])}\n")


def read(path: Path) -> list[Entry]:
    """Returns the whole lines of a ledger; none if there is no file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    entries = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [Entry(keys=tuple(keys), began=began, ended=ended) for keys, began, ended in entries]


def device_seconds(entries: Iterable[Entry], keys: Iterable[str]) -> float:
    """Returns the device time spent on these requests."""
    wanted = set(keys)
    return sum((e.ended - e.began) * sum(k in wanted for k in e.keys) / len(e.keys) for e in entries if e.keys)


def wasted_seconds(entries: Iterable[Entry], left: Mapping[str, float]) -> float:
    """Returns the device time that was spent on requests after their callers had left.

    Args:
        entries: the system's calls.
        left: for each request whose caller went away, when that was.
    """
    wasted = 0.0
    for entry in entries:
        for key in entry.keys:
            if key in left:
                wasted += max(0.0, entry.ended - max(entry.began, left[key])) / len(entry.keys)
    return wasted
