"""Importing diffusers and transformers without parts of scipy, and on a CPU without torch's compiler.

Both libraries import scipy for functions that this server never calls, or calls for one scheduler, and torch._dynamo
for a few marks on functions: a third of the time from start to serving. Nothing is taken away: what is asked for later
is imported then.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, Final

DEFERRED: Final = ("scipy.integrate", "scipy.optimize", "scipy.stats")
"""For the LMS scheduler, losses of training, and beta sigmas."""

COMPILER: Final = ("torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op")
"""For what may stand in a compiled graph as it is, and for masks that transformers makes with vmap."""


class _Late:
    """Stands for something in a module, which is imported when this is called or asked for something."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def _real(self) -> Any:
        _make_way()  # all, since the real one may import the others
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._real()(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)


class _Deferred(ModuleType):
    """Stands for a module while others are imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Late(self.__name__, name)


class _DeferredCompiler(_Deferred):
    """Stands for torch._dynamo where nothing will be compiled: what marks code for it marks nothing."""

    @staticmethod
    def allow_in_graph(given: Any) -> Any:
        """Returns what it is given, as diffusers' own stand-in does where torch has no compiler."""
        return given

    assume_constant_result = allow_in_graph

    @staticmethod
    def disable(given: Any = None, *_: Any, **__: Any) -> Any:
        """Returns what it is given, or a decorator that does."""
        return given if given is not None else _DeferredCompiler.allow_in_graph

    eval_frame = SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))
    """Nothing is an instance of it, since nothing is compiled."""


@contextmanager
def light_imports(*, compiler: bool) -> Iterator[None]:
    """Defers DEFERRED for the time of the context, and COMPILER too unless the `compiler` will be used.

    Not for use while other threads import the same modules.
    """
    sys.modules.update({name: _Deferred(name) for name in DEFERRED if name not in sys.modules})
    if not compiler and COMPILER[0] not in sys.modules:
        sys.modules.update({name: _DeferredCompiler(name) for name in COMPILER})
    try:
        yield
    finally:
        _make_way()


def _make_way() -> None:
    """Forgets everything that stands for a module now."""
    for name in (*DEFERRED, *COMPILER):
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]
