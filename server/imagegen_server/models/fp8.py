"""Linear layers in fp8, with torchao: opt-in, since it changes pixels, and named in every result as the precision.

Weights and activations of the UNets' transformer blocks are rounded to float8_e4m3 with a scale for each row; all else
stays in bf16. See torchao's `Float8DynamicActivationFloat8WeightConfig`.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Final

LEAST_CAPABILITY: Final = (8, 9)
"""First compute capability with fp8 tensor cores (Ada Lovelace; CUDA C++ Programming Guide, arithmetic tables)."""

_LEAST_FEATURES: Final = 640
"""Layers with fewer inputs or outputs gain nothing: to scale them costs as much as to multiply."""


_LEAST_ACTIVATION: Final = 1e-12
"""What a row is scaled as if it held at least. The negative embedding is zeros where there is no negative prompt, and
torchao divides a row by its largest value (pytorch/ao#3356)."""


def installed() -> bool:
    """Returns whether torchao is there."""
    return importlib.util.find_spec("torchao") is not None


def quantize(unet: Any) -> None:
    """Rounds the large linear layers of a UNet's transformer blocks to fp8 in place; the UNet must be on its GPU."""
    from torchao.quantization import (  # noqa: PLC0415 - an extra
        Float8DynamicActivationFloat8WeightConfig,
        PerRow,
        quantize_,
    )

    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(),
        activation_value_lb=_LEAST_ACTIVATION,
        set_inductor_config=False,  # it would change how everything else in the process is compiled, and tf32
    )
    quantize_(unet, config, filter_fn=is_quantized)


def is_quantized(module: Any, name: str) -> bool:
    """Returns whether a module of a UNet, by its dotted name, is one of the layers that are rounded."""
    import torch  # noqa: PLC0415 - heavy

    large = isinstance(module, torch.nn.Linear) and min(module.in_features, module.out_features) >= _LEAST_FEATURES
    return large and "transformer_blocks" in name.split(".")
