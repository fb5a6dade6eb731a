"""Modules that are loaded in another way than usual, for as long as a context lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


@contextmanager
def loaded_by(names: Collection[str], make: Callable[[ModuleSpec], Loader | None]) -> Iterator[None]:
    """Loads those modules that are first imported during the context by what `make` gives; by their own for None."""
    finder = _Finder(names, make)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds the modules where they are."""

    def __init__(self, names: Collection[str], make: Callable[[ModuleSpec], Loader | None]) -> None:
        self._names = names
        self._make = make

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of one of them, None for any other module."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self._names else None
        if spec is not None:
            spec.loader = self._make(spec) or spec.loader
        return spec
