"""Modules that are loaded in another way than usual, for as long as a context lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


@contextmanager
def loaded_by(names: Collection[str], make: Callable[[ModuleSpec], Loader | None]) -> Iterator[None]:
    """Loads those modules that are first imported during the context by what `make` gives; by their own for None."""
    finder = _Finder(names, make)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def changed_when_loaded(name: str, change: Callable[[ModuleType], None]) -> AbstractContextManager[None]:
    """Calls `change` with the module of that name when it is loaded, if it is first imported during the context."""
    return loaded_by({name}, lambda spec: None if spec.loader is None else _Changing(spec.loader, change))


class _Changing(Loader):
    """Loads a module by its own loader, and has it changed."""

    def __init__(self, own: Loader, change: Callable[[ModuleType], None]) -> None:
        self._own = own
        self._change = change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Returns what its own loader returns."""
        return self._own.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """Loads the module, whose loader is its own from then on."""
        module.__spec__.loader = module.__loader__ = self._own
        self._own.exec_module(module)
        self._change(module)


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
