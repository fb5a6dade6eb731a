"""Models on the meta device, where the libraries build them before they read their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from torch.nn import init
from torch.overrides import TorchFunctionMode

_INITIALISERS: Final = frozenset(
    getattr(init, name) for name in dir(init) if name.endswith("_") and not name.startswith("_")
)
"""What torch.nn.init fills a tensor with, in place."""


class Uninitialised(TorchFunctionMode):
    """A context in which tensors on the meta device are not initialised: they have no values.

    torch would work out for each what that does to its size and type, for which it imports sympy.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns what the function returns; of an initialiser of such a tensor, the tensor."""
        named = kwargs or {}
        if func in _INITIALISERS:
            tensor = args[0] if args else named["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **named)
