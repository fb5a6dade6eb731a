"""Importing diffusers and transformers without what this server never uses of them and of torch.

They import scipy for functions that are not called here, or for one scheduler; torch's distributed tensors, for models
that are spread over devices; torch._dynamo for a few marks on functions, which only a compiler reads; and with a model
on the meta device comes sympy, for sizes that are symbols. Together that is half of the time from start to serving.
Nothing is taken away: what is asked for later is imported then.
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, Final

DEFERRED: Final = ("scipy.integrate", "scipy.optimize", "scipy.stats")
"""For the LMS scheduler, losses of training, and beta sigmas."""

COMPILER: Final = ("torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op")
"""For what may stand in a compiled graph as it is, and for masks that transformers makes with vmap."""

SYMBOLS: Final = "torch.fx.experimental.symbolic_shapes"
"""For sizes that are symbols: what torch asks of every size on the meta device."""


class _Late:
    """Stands for something in a module, which is imported when this is called, asked for something, or a class."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def _real(self) -> Any:
        _make_way()  # all, since the real one may import the others
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._real()(*arguments, **keywords)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._real())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real(),)

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


class _DeferredSymbols(_Deferred):
    """Stands for torch's symbolic sizes where all sizes are numbers, of which it knows the answers itself."""

    def __getattr__(self, name: str) -> Any:
        late = super().__getattr__(name)
        return _Answered(late, _OF_NUMBERS[name]) if name in _OF_NUMBERS else late


class _Answered:
    """Answers for plain numbers, truth values and tuples of them; anything else is for the real function."""

    def __init__(self, late: _Late, answer: Callable[..., bool]) -> None:
        self._late = late
        self._answer = answer

    def __call__(self, *given: Any, **keywords: Any) -> Any:
        plain = not keywords and all(_is_plain(one) for one in given)
        return self._answer(*given) if plain else self._late(*given, **keywords)


def _is_plain(given: Any) -> bool:
    return type(given) in (bool, int) or (type(given) is tuple and all(_is_plain(one) for one in given))


_OF_NUMBERS: Final[dict[str, Callable[..., bool]]] = {
    "expect_true": bool,
    "guard_or_false": bool,
    "guard_or_true": bool,
    "is_nested_int": lambda _: False,
    "sym_and": lambda *given: all(given),
    "sym_eq": operator.eq,
    "sym_or": lambda *given: any(given),
}
"""What these functions of SYMBOLS return for numbers, which are no symbols."""


@contextmanager
def light_imports(*, compiler: bool) -> Iterator[None]:
    """Defers DEFERRED for the time of the context, and the compiler and SYMBOLS too unless the `compiler` will be used.

    Not for use while other threads import the same modules.
    """
    sys.modules.update({name: _Deferred(name) for name in DEFERRED if name not in sys.modules})
    if not compiler and COMPILER[0] not in sys.modules:
        sys.modules.update({name: _DeferredCompiler(name) for name in COMPILER})
    if not compiler and SYMBOLS not in sys.modules:
        sys.modules[SYMBOLS] = _DeferredSymbols(SYMBOLS)
    try:
        yield
    finally:
        _make_way()


@contextmanager
def without_distribution() -> Iterator[None]:
    """Shows a torch without distribution, which is a build that both libraries support; they remember it."""
    import torch.distributed  # noqa: PLC0415 - heavy

    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available


def _make_way() -> None:
    """Forgets everything that stands for a module now."""
    for name in (*DEFERRED, *COMPILER, SYMBOLS):
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]
