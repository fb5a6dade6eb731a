"""Importing diffusers and transformers without what this server never uses of them and of torch.

They import scipy for functions that are not called here, or for one scheduler; torch's distributed tensors, for models
that are spread over devices; torch._dynamo for a few marks on functions, which only a compiler reads; and with a model
on the meta device comes sympy, for sizes that are symbols. Together that is half of the time from start to serving.
Nothing is taken away: what is asked for later is imported then. During `light_imports`

1. the modules that are not needed have a stand-in in `sys.modules` (`_StandIn`), which imports nothing;
2. a library that imports one of them, or a name from it, gets the stand-in and what it gives for that name: what it
   knows itself (`_KNOWN`), or else something that stands for what the module has (`_Member`);
3. whoever uses a member, then or later, has the real module imported, and all stand-ins leave `sys.modules` before:
   the real one may import the others;
4. when the context ends they leave in any case, and whoever imports such a module gets the real one.
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, Final

DEFERRED: Final = ("scipy.integrate", "scipy.optimize", "scipy.stats")
"""For the LMS scheduler, losses of training, and beta sigmas."""

COMPILER: Final = ("torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op")
"""For what may stand in a compiled graph as it is, and for masks that transformers makes with vmap."""

SYMBOLS: Final = "torch.fx.experimental.symbolic_shapes"
"""For sizes that are symbols: what torch asks of every size on the meta device."""

_ALL: Final = (*DEFERRED, *COMPILER, SYMBOLS)


@contextmanager
def light_imports(*, compiler: bool) -> Iterator[None]:
    """Defers DEFERRED for the time of the context, and the compiler and SYMBOLS too unless the `compiler` will be used.

    Not for use while other threads import the same modules.
    """
    deferred = DEFERRED if compiler else _ALL
    sys.modules.update({name: _StandIn(name) for name in deferred if name not in sys.modules})
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


class _StandIn(ModuleType):
    """Stands for a module while others are imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        vars(self).update(_KNOWN.get(name, {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Member(self.__name__, name)


class _Member:
    """Stands for what a module has, which is imported when this is called, asked for something, or taken as a class."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def _real(self) -> Any:
        _make_way()
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


def _make_way() -> None:
    """Forgets everything that stands for a module now."""
    for name in _ALL:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _unchanged(given: Any) -> Any:
    return given


def _disable(given: Any = None, *_: Any, **__: Any) -> Any:
    """Returns what it is given, or a decorator that does."""
    return given if given is not None else _unchanged


def _for_numbers(name: str, answer: Callable[..., bool]) -> Callable[..., Any]:
    """Returns a function of SYMBOLS that knows the answer for numbers, truth values and tuples of them.

    Anything else is for the real one.
    """
    real = _Member(SYMBOLS, name)

    def function(*given: Any, **keywords: Any) -> Any:
        plain = not keywords and all(_is_plain(one) for one in given)
        return answer(*given) if plain else real(*given, **keywords)

    return function


def _is_plain(given: Any) -> bool:
    return type(given) in (bool, int) or (type(given) is tuple and all(_is_plain(one) for one in given))


_ANSWERS: Final[Mapping[str, Callable[..., bool]]] = {
    "expect_true": bool,
    "guard_or_false": bool,
    "guard_or_true": bool,
    "is_nested_int": lambda _: False,
    "sym_and": lambda *given: all(given),
    "sym_eq": operator.eq,
    "sym_or": lambda *given: any(given),
}
"""What functions of SYMBOLS return for numbers, which are no symbols."""

_KNOWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "torch._dynamo": {
        "allow_in_graph": _unchanged,
        "assume_constant_result": _unchanged,
        "disable": _disable,
        "eval_frame": SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {})),
    },
    SYMBOLS: {name: _for_numbers(name, answer) for name, answer in _ANSWERS.items()},
}
"""What stand-ins give themselves. Where nothing is compiled, marks for the compiler mark nothing, as diffusers' own do
where torch has none, and nothing is an instance of what is compiled."""
