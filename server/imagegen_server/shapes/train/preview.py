"""The projection of step previews: fitted to pictures by least squares once the VAE is done, nothing to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

from imagegen_server.shapes.train.vae import FACTOR, images

SCALE = 4
"""Preview pixels of a side from one latent: a 128x128 image has a 64x64 preview."""
KERNEL = 3
"""Each latent's pixels are read from this many latents of a side."""
_RIDGE = 1e-3


@torch.no_grad()
def fit(vae: Any, file: Path, device: str, *, batches: int) -> float:
    """Writes `weight` (3 * SCALE**2, channels, KERNEL, KERNEL) and `bias`, for pixels from 0 to 255.

    Returns the PSNR in dB of what it was fitted to: batches of 32 of the world's pictures, averaged to the preview's
    size.
    """
    inputs, outputs = [], []
    for step in range(batches):
        pixels = images(3 * 10**9 + step, 32, device, random_colours=0.3)
        latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        inputs.append(_neighbourhoods(latents))
        outputs.append(_patches((pixels + 1) * 127.5))
    known, wanted = torch.cat(inputs).double(), torch.cat(outputs).double()
    known = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype, device=known.device)], dim=1)
    normal = known.T @ known
    solution = torch.linalg.solve(
        normal + _RIDGE * torch.eye(len(normal), dtype=known.dtype, device=device), known.T @ wanted
    )
    channels = vae.config.latent_channels
    weight = solution[:-1].T.reshape(-1, channels, KERNEL, KERNEL)
    save_file({"weight": weight.float().contiguous().cpu(), "bias": solution[-1].float().contiguous().cpu()}, file)
    error = ((known @ solution).clamp(0, 255) - wanted).square().mean()
    return float(10 * torch.log10(255**2 / error))


def _neighbourhoods(latents: torch.Tensor) -> torch.Tensor:
    padded = functional.pad(latents, [KERNEL // 2] * 4, mode="replicate")
    return functional.unfold(padded, KERNEL).transpose(1, 2).flatten(0, 1)


def _patches(pixels: torch.Tensor) -> torch.Tensor:
    small = functional.avg_pool2d(pixels, FACTOR // SCALE)
    return functional.pixel_unshuffle(small, SCALE).flatten(2).transpose(1, 2).flatten(0, 1)
