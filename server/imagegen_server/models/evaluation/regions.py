"""The parts of a UNet that torch.compile is given one by one, and how a module is compiled in place.

SDXL's UNets are made of two blocks, over and over. Compiled one by one, each kind of block is compiled once, for all
rows and sizes, while a whole UNet takes minutes for one size. Whatever lies between the blocks (a few convolutions and
linear layers) stays as it is, but for the group norms, which torch would copy to another layout and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import torch
from torch import nn

_KINDS: Final = 64
"""Forms of one piece of code that may be compiled: each pair of channels going into and out of a block is one."""


def regions(unet: nn.Module) -> Iterator[nn.Module]:
    """Yields the UNet's transformer and residual blocks, and the group norms outside of them."""
    from diffusers.models.attention import BasicTransformerBlock  # noqa: PLC0415 - heavy
    from diffusers.models.resnet import ResnetBlock2D  # noqa: PLC0415 - heavy

    if isinstance(unet, BasicTransformerBlock | ResnetBlock2D | nn.GroupNorm):
        yield unet
        return
    for child in unet.children():
        yield from regions(child)


def compile_region(module: nn.Module, *, backend: Any, channels_last: bool) -> None:
    """Compiles a region in place: one form for all rows, sizes and numbers of tokens.

    `channels_last` lays its images out so before they come in, so that there is one form for them, too.
    """
    # A norm's own method is torch's, which torch.compile would wrap anew for every norm.
    forward = _norm(module, backend) if isinstance(module, nn.GroupNorm) else _compiled(module.forward, backend)

    def call(first: torch.Tensor, *others: Any, **named: Any) -> Any:
        if first.dim() == 4:
            if channels_last:
                first = first.contiguous(memory_format=torch.channels_last)
            _leave_open(first, 0, 2, 3)
        else:
            _leave_open(first, 0, 1)
        for other in _tensors((others, named)):
            _leave_open(other, 0)
        return forward(first, *others, **named)

    module.forward = call


def compile_whole(module: nn.Module, *, backend: Any) -> None:
    """Compiles a module in place: one form for each size, and for all rows."""
    forward = _compiled(module.forward, backend)

    def call(*arguments: Any, **named: Any) -> Any:
        for tensor in _tensors((arguments, named)):
            _leave_open(tensor, 0)
        return forward(*arguments, **named)

    module.forward = call


def plain_again(modules: Iterable[nn.Module]) -> None:
    """Undoes both for modules and all that they are made of."""
    for module in modules:
        for part in module.modules():
            part.__dict__.pop("forward", None)


def _compiled(function: Callable[..., Any], backend: Any) -> Callable[..., Any]:
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, _KINDS)
    # Static but for the dimensions that are left open: what torch finds out by itself would leave channels open, too.
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)


def _norm(module: nn.GroupNorm, backend: Any) -> Callable[..., Any]:
    forward = _compiled(nn.functional.group_norm, backend)
    return lambda images: forward(images, module.num_groups, module.weight, module.bias, module.eps)


def _leave_open(tensor: torch.Tensor, *dimensions: int) -> None:
    for dimension in dimensions:
        torch._dynamo.maybe_mark_dynamic(tensor, dimension)


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict):
        yield from _tensors(tuple(found.values()))
    elif isinstance(found, tuple | list):
        for each in found:
            yield from _tensors(each)
