"""Random weights that keep activations near one in any depth, so that half precision stays finite.

Variance-preserving fan-in scaling (Glorot & Bengio 2010; He et al. 2015), with the last layer of each residual
branch scaled down as in Fixup (Zhang, Dauphin & Ma 2019): a deep residual stream would otherwise grow with depth.
"""

from __future__ import annotations

import math

import torch
from torch import nn

_BRANCH_ENDS = ("conv2", "to_out.0", "ff.net.2", "proj_out", "out_proj", "fc2")
_BRANCH_SCALE = 0.25
_EMBEDDING_STD = 0.5
"""Token and position embeddings; large enough that different words give clearly different states."""


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Draws every parameter and fills every buffer in place, on the module's own device and dtype.

    Deterministic for a device type, dtype and seed. Raises ValueError for a kind of parameter or buffer that
    SDXL's components do not have.
    """
    generator: torch.Generator | None = None
    for name, child in module.named_modules():
        for key, parameter in child.named_parameters(recurse=False):
            if generator is None:
                generator = torch.Generator(parameter.device).manual_seed(seed)
            _draw(child, name, key, parameter, generator)
        for key, buffer in child.named_buffers(recurse=False):
            _fill(key, buffer)


def _draw(owner: nn.Module, path: str, key: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if key == "bias":
        parameter.zero_()
    elif isinstance(owner, nn.GroupNorm | nn.LayerNorm):
        parameter.fill_(1.0)
    elif isinstance(owner, nn.Embedding):
        parameter.normal_(0.0, _EMBEDDING_STD, generator=generator)
    elif isinstance(owner, nn.Linear | nn.Conv2d):
        gain = _BRANCH_SCALE if path.endswith(_BRANCH_ENDS) else 1.0
        parameter.normal_(0.0, gain / math.sqrt(parameter[0].numel()), generator=generator)
    else:
        raise ValueError(f"no rule to draw {path}.{key} of a {type(owner).__name__}")


def _fill(key: str, buffer: torch.Tensor) -> None:
    if key != "position_ids":
        raise ValueError(f"no rule to fill the buffer {key}")
    buffer.copy_(torch.arange(buffer.shape[-1], device=buffer.device).expand(buffer.shape))
