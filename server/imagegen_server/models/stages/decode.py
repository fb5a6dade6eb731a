"""Latents to pixels, as both pipelines end."""

from __future__ import annotations

from typing import Any

import torch

from imagegen_server.core import Pixels
from imagegen_server.errors import NonFinite

_TILES_A_SIDE = 2
"""Tiles are this part of the latent, at least `_LEAST_TILE`, and overlap by the VAE's own `tile_overlap_factor`."""

_LEAST_TILE = 8
"""Latent pixels of a tile's side. diffusers takes the size that the VAE was trained at, at which nothing is tiled."""

_WHOLE_TILES = 4
"""A tile's side is a multiple of it. Tiles begin three quarters of a tile apart, which diffusers rounds to whole
latents, and keep three quarters of their pixels: where the two differ the image has another size, and jumps."""


def decode(pipeline: Any, latents: torch.Tensor, *, tiled: bool = False) -> Pixels:
    """Returns the 8-bit image of one latent of shape (1, channels, height, width).

    The latent is taken to the VAE's own dtype first, which is what diffusers' temporary upcast of an fp16 VAE does.
    `tiled` decodes overlapping parts one by one, in about a quarter of the memory, and blends their seams. Raises
    NonFinite if the VAE gives NaN or infinity.
    """
    vae = pipeline.vae
    scaled = _denormalised(vae.config, latents.to(vae.dtype))
    image = _in_tiles(vae, scaled) if tiled else vae.decode(scaled, return_dict=False)[0]
    finite = torch.isfinite(image).all()
    image = pipeline.image_processor.postprocess(image, output_type="pt")
    # diffusers rounds in numpy: fp32, half to even. torch does the same on the device, and a quarter crosses the bus.
    rows = image[0].permute(1, 2, 0).float().mul(255).round().to(torch.uint8).contiguous()
    host = torch.empty(rows.shape, dtype=torch.uint8, pin_memory=rows.is_cuda)
    host.copy_(rows, non_blocking=True)
    if not bool(finite):  # waits for the device, and so for the copy
        raise NonFinite("the VAE gave non-finite pixels")
    height, width, _ = rows.shape
    return Pixels(width=width, height=height, data=host.numpy().tobytes())


def _in_tiles(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Returns diffusers' own tiled decode with tiles that are smaller than the latent."""
    before = vae.tile_latent_min_size, vae.tile_sample_min_size
    part = -(-max(latents.shape[-2:]) // _TILES_A_SIDE)
    tile = max(_LEAST_TILE, -(-part // _WHOLE_TILES) * _WHOLE_TILES)
    vae.tile_latent_min_size = tile
    vae.tile_sample_min_size = tile * 2 ** (len(vae.config.block_out_channels) - 1)
    try:
        image: torch.Tensor = vae.tiled_decode(latents, return_dict=False)[0]
    finally:
        vae.tile_latent_min_size, vae.tile_sample_min_size = before
    return image


def _denormalised(config: Any, latents: torch.Tensor) -> torch.Tensor:
    factor: float = config.scaling_factor
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents / factor
    shape = (1, -1, 1, 1)
    mean_tensor = torch.tensor(mean).view(shape).to(latents.device, latents.dtype)
    std_tensor = torch.tensor(std).view(shape).to(latents.device, latents.dtype)
    return latents * std_tensor / factor + mean_tensor
