"""Latents to pixels, as both pipelines end."""

from __future__ import annotations

from typing import Any

import torch

from imagegen_server.core import Pixels
from imagegen_server.errors import NonFinite


def decode(pipeline: Any, latents: torch.Tensor) -> Pixels:
    """Returns the 8-bit image of one latent of shape (1, channels, height, width).

    The latent is taken to the VAE's own dtype first, which is what diffusers' temporary upcast of an fp16 VAE does.
    Raises NonFinite if the VAE gives NaN or infinity.
    """
    vae = pipeline.vae
    image = vae.decode(_denormalised(vae.config, latents.to(vae.dtype)), return_dict=False)[0]
    if not bool(torch.isfinite(image).all()):
        raise NonFinite("the VAE gave non-finite pixels")
    image = pipeline.image_processor.postprocess(image, output_type="pt")
    # diffusers rounds in numpy: fp32, half to even. torch does the same on the device, and a quarter crosses the bus.
    rows = image[0].permute(1, 2, 0).float().mul(255).round().to(torch.uint8).cpu()
    height, width, _ = rows.shape
    return Pixels(width=width, height=height, data=rows.contiguous().numpy().tobytes())


def _denormalised(config: Any, latents: torch.Tensor) -> torch.Tensor:
    factor: float = config.scaling_factor
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents / factor
    shape = (1, -1, 1, 1)
    mean_tensor = torch.tensor(mean).view(shape).to(latents.device, latents.dtype)
    std_tensor = torch.tensor(std).view(shape).to(latents.device, latents.dtype)
    return latents * std_tensor / factor + mean_tensor
