"""Packages whose own `__init__` runs when it is asked for something, not when one of their modules is imported.

That of diffusers.models.transformers imports every transformer there is, and that of transformers.models reads the
source of all models for what they export; a pair needs a few modules of them, which are found without.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import AbstractContextManager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

from imagegen_server.models.imports.loaders import loaded_by

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


def lazy_packages() -> AbstractContextManager[None]:
    """Makes those `PACKAGES` lazy that are first imported during the context; they stay so."""
    return loaded_by(PACKAGES, _lazy)


def _lazy(spec: ModuleSpec) -> Loader | None:
    if spec.loader is None or spec.submodule_search_locations is None:
        return None
    return _LazyLoader(spec.loader)
