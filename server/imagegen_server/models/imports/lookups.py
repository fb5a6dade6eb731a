"""Makes quick what torch, diffusers and transformers look up while they are imported, which is a tenth of a start.

torch asks `inspect` for the module, file and line that register each of some hundred functions. For the module it
compares the files of all modules there are, and around the line it reads the source; a frame knows its module's name,
and nobody wants the source. diffusers and transformers each list which distribution every installed package came with,
and ask that list for packages that few have.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, ModuleType, TracebackType
from typing import Any

Distributions = Mapping[str, list[str]]
"""The distributions that each package came with."""


class _LateDistributions(Distributions):
    """What `packages_distributions` returns, found out at the first question."""

    def __init__(self, look: Callable[[], Distributions]) -> None:
        self._look = look
        self._found: Distributions | None = None

    def _all(self) -> Distributions:
        if self._found is None:
            self._found = self._look()
        return self._found

    def __getitem__(self, package: str) -> list[str]:
        return self._all()[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


@contextmanager
def quick_lookups() -> Iterator[None]:
    """Makes those lookups quick, in the whole process and for the time of the context. For imports.

    `inspect.getframeinfo` gives no lines of source, `inspect.getmodule` of a frame goes by the frame's globals, and
    `importlib.metadata.packages_distributions` looks when what it returned is read: what was installed until then.
    """
    frame_info, module_of = inspect.getframeinfo, inspect.getmodule
    distributions = importlib.metadata.packages_distributions
    late = _LateDistributions(distributions)

    def frame_info_without_lines(frame: FrameType | TracebackType, context: int = 1) -> inspect.Traceback:
        del context
        return frame_info(frame, 0)

    def module_by_name(object: Any, _filename: str | None = None) -> ModuleType | None:  # noqa: A002 - inspect's name
        named = sys.modules.get(object.f_globals.get("__name__", "")) if isinstance(object, FrameType) else None
        return named if named is not None and vars(named) is object.f_globals else module_of(object, _filename)

    inspect.getframeinfo, inspect.getmodule = frame_info_without_lines, module_by_name
    importlib.metadata.packages_distributions = lambda: late
    try:
        yield
    finally:
        inspect.getframeinfo, inspect.getmodule = frame_info, module_of
        importlib.metadata.packages_distributions = distributions
