"""How much arithmetic a step is, and how much the device can do: counted and measured, not looked up."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

from gpu.site import Site, synchronize
from imagegen_server.core import STEP_STAGES, Precision, Stage
from imagegen_server.models.precision import torch_dtype
from imagegen_server.models.sources.architecture import Architecture

if TYPE_CHECKING:
    import torch

_TOKENS = 77
_REPEATS = 10


@cache
def row_flop(site: Site, stage: Stage, side: int) -> int:
    """Returns the floating-point operations of one UNet row, counted by torch on a model without memory.

    Matrix products and convolutions, attention included; a multiplication and an addition are two.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    architecture = site.architectures[0 if stage is Stage.BASE else 1]
    config = architecture.config("unet")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet: Any = architecture.instantiate("unet")
        unet(
            torch.empty(1, config["in_channels"], side // 8, side // 8),
            torch.empty(1),
            encoder_hidden_states=torch.empty(1, _TOKENS, config["cross_attention_dim"]),
            added_cond_kwargs=_added(architecture, config),
        )
    return int(counter.get_total_flops())


def denoising_flop(site: Site) -> int:
    """Returns the operations of both UNets in one guided image of the native size and the site's steps."""
    stages = zip(STEP_STAGES, site.steps, strict=True)
    return sum(2 * count * row_flop(site, stage, site.native) for stage, count in stages)


def _added(architecture: Architecture, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns a pooled embedding and as many time ids as the UNet was built for."""
    import torch

    pooled = architecture.config("text_encoder_2")["projection_dim"]
    ids = (config["projection_class_embeddings_input_dim"] - pooled) // config["addition_time_embed_dim"]
    return {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, ids)}


def roof(site: Site, precision: Precision) -> float:
    """Returns the operations per second of a large matrix product in the precision, best of several."""
    import torch

    from imagegen_server.models.precision import apply_matmul_mode

    apply_matmul_mode(precision)
    side = site.matmul
    left, right = (torch.randn(side, side, device=site.device, dtype=torch_dtype(precision)) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS):
        synchronize(site)
        began = time.perf_counter()
        torch.mm(left, right)
        synchronize(site)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best
