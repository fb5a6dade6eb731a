"""Packages whose own `__init__` runs when it is asked for something, not when one of their modules is imported.

That of diffusers.models.transformers imports every transformer there is, and that of transformers.models reads the
source of all models for what they export; a pair needs a few modules of them, which are found without.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

PACKAGES: Final = frozenset(
    {
        "diffusers.models.autoencoders",
        "diffusers.models.transformers",
        "diffusers.models.unets",
        "transformers.models",
    }
)


class _LazyPackage(ModuleType):
    """A package without what its `__init__` gives it, which runs when something is missing that is no module of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__) is not None:
            return importlib.import_module(f"{self.__name__}.{name}")
        loader = self.__spec__.loader if self.__spec__ is not None else None
        object.__setattr__(self, "__class__", ModuleType)
        try:
            if isinstance(loader, _LazyLoader):
                loader.real.exec_module(self)
        except BaseException:
            object.__setattr__(self, "__class__", _LazyPackage)  # and the next to ask is told the same
            raise
        return getattr(sys.modules[self.__name__], name)  # some put another module in their place


class _LazyLoader(Loader):
    """Makes lazy packages."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Returns a package with nothing in it."""
        return _LazyPackage(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing yet."""


class _Finder(MetaPathFinder):
    """Finds `PACKAGES` where they are, to be lazy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of one of them, None for any other module."""
        found = PathFinder.find_spec(fullname, path, target) if fullname in PACKAGES else None
        if found is None or found.loader is None or found.submodule_search_locations is None:
            return None
        found.loader = _LazyLoader(found.loader)
        return found


@contextmanager
def lazy_packages() -> Iterator[None]:
    """Makes those `PACKAGES` lazy that are first imported during the context; they stay so."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
