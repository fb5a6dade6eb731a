"""Importing diffusers and transformers without what serving does not need of scipy.

Both libraries import it for functions that this server never calls, or calls for one scheduler; that is a sixth of the
time from start to serving. Nothing is taken away: what is asked for later is imported then.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

DEFERRED: Final = ("scipy.integrate", "scipy.optimize", "scipy.stats")
"""For the LMS scheduler, losses of training, and beta sigmas."""


class _Deferred(ModuleType):
    """Stands for a module while others are imported; what they take from it imports the real one when it is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def late(*arguments: Any, **keywords: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **keywords)

        return late


@contextmanager
def light_imports() -> Iterator[None]:
    """Defers DEFERRED for the time of the context. Not for use while other threads import the same modules."""
    standing = {name: _Deferred(name) for name in DEFERRED if name not in sys.modules}
    sys.modules.update(standing)
    try:
        yield
    finally:
        for name, module in standing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
