"""How much of the processor other programs took while something was measured. Linux only, elsewhere always 0."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

_STAT: Final = Path("/proc/stat")
_IDLE_FIELDS: Final = (3, 4)
"""idle and iowait (proc_stat(5)); guest time, fields 8 and 9, is part of user time."""
_FIELDS: Final = 8


class Meter:
    """Measures from its creation on. The processes with the given ids, and this one, are not others."""

    def __init__(self, ours: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in (os.getpid(), *ours)]
        self._began = time.monotonic()
        self._busy, self._own = busy_seconds(), self._own_seconds()

    def others(self) -> float:
        """Returns how many cores other programs kept busy on average, the kernel and the hypervisor included."""
        taken = (busy_seconds() - self._busy) - (self._own_seconds() - self._own)
        return max(taken, 0.0) / max(time.monotonic() - self._began, 1e-9)

    def _own_seconds(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return float(sum(each.user + each.system for each in times))


def busy_seconds() -> float:
    """Returns the seconds that all cores together were not idle since the machine started; 0 if it does not say."""
    try:
        line = _STAT.read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return 0.0
    ticks = [int(field) for field in line.split()[1 : 1 + _FIELDS]]
    return sum(count for index, count in enumerate(ticks) if index not in _IDLE_FIELDS) / os.sysconf("SC_CLK_TCK")
