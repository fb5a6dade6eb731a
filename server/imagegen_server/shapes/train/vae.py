"""The VAE: 128x128 pixels to 16x16 latents of four channels, and back.

Three things beside the usual losses matter. Colours are drawn at random and three latent channels are tied to the image
at an eighth of its size: without that the eight colours end up on a line in latent space and guidance turns one into
another. The mean of the fourth channel is tied to the finish, so that there is something for the refiner to change. And
the decoder is trained on latents with some noise, as a denoiser's never are exact.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from imagegen_server.shapes import prompts, world
from imagegen_server.shapes.train.loop import Losses, Recipe, run

FACTOR = 8
TIED = 1.5
"""Latent units of a tied channel for a full colour step (channels from -1 to 1)."""
NOISE = 0.06
"""Standard deviation of the noise that is added to latents before they are decoded, at least."""
_RANDOM_COLOURS, _LATE_RANDOM_COLOURS = 0.6, 0.3
_CROP = 64
_CROPPED_STEPS = 0.45
"""The first part of the steps sees crops: four times as many for the same time."""
_BATCH = 4


def images(step: int, batch: int, device: str, *, random_colours: float = _RANDOM_COLOURS) -> torch.Tensor:
    """Returns images of step `step` in both finishes, (batch, 3, 128, 128), channels from -1 to 1."""
    rng = np.random.default_rng((7, step))
    scenes = []
    for _ in range(batch):
        scene = world.arrange(prompts.sample(rng), rng)
        scenes.append(world.with_random_colours(scene, rng) if rng.random() < random_colours else scene)
    half = batch // 2
    parts = [
        world.render(scenes[:half], world.SMOOTH, device=device),
        world.render(scenes[half:], world.TEXTURED, device=device),
    ]
    return torch.cat(parts) * 2 - 1


@torch.no_grad()
def initialise(vae: Any) -> None:
    """Draws the weights so that colours reach the latents and come back from the first step on.

    torch's default lets a signal shrink by the square root of three with every convolution while the biases keep their
    size, and learning waits for hundreds of steps. Here the signal keeps its variance (He et al. 2015), residual
    branches begin as nothing (Zhang, Dauphin & Ma 2019), and the first layers' biases leave the normalisations
    something to compare a colour with.
    """
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            ends_branch = name.endswith(("conv2", "to_out.0"))
            module.weight.normal_(0.0, 0.0 if ends_branch else module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                module.bias.normal_(0.0, 1.0 if name.endswith("coder.conv_in") else 0.0)


def train_decoder(vae: Any, steps: int, checkpoint: Path, device: str) -> None:
    """Trains the decoder in place on the latents of the encoder as it is: what was encoded before stays valid."""
    decoder = nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})

    def loss_at(step: int) -> Losses:
        generator = torch.Generator(device).manual_seed(step)
        target = images(step, _BATCH, device, random_colours=_LATE_RANDOM_COLOURS)
        with torch.no_grad():
            mean = vae.encode(target).latent_dist.mean
        noise = torch.randn(mean.shape, generator=generator, device=device)
        return _errors(vae.decode(mean + NOISE * noise).sample - target)

    recipe = Recipe(name="decoder", steps=steps, learning_rate=1e-3, ema_decay=0.998)
    run(recipe, decoder, loss_at, checkpoint)


def train(vae: Any, steps: int, checkpoint: Path, device: str) -> None:
    """Trains the VAE in place."""

    def loss_at(step: int) -> Losses:
        generator = torch.Generator(device).manual_seed(step)
        cropped = step < steps * _CROPPED_STEPS
        target = images(step, _BATCH * (3 if cropped else 1), device)
        if cropped:
            target = _crops(target, np.random.default_rng((8, step)))
        posterior = vae.encode(target).latent_dist
        spread = torch.sqrt(posterior.var + NOISE**2)
        noise = torch.randn(spread.shape, generator=generator, device=device)
        decoded = vae.decode(posterior.mean + spread * noise).sample
        tie = functional.mse_loss(posterior.mean[:, :3], TIED * functional.avg_pool2d(target, FACTOR))
        finish = (posterior.mean[:, 3].mean(dim=(1, 2)) - _finishes(len(target), device)).square().mean()
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return {
            **_errors(decoded - target),
            "tie": 0.05 * tie,
            "finish": 0.02 * finish,
            "kl": 2e-4 * divergence,
        }

    run(Recipe(name="vae", steps=steps, learning_rate=2e-3, ema_decay=0.998), vae, loss_at, checkpoint)


@torch.no_grad()
def psnr(vae: Any, device: str, *, batches: int) -> float:
    """Returns the peak signal-to-noise ratio of a round trip in dB, over both finishes and the palette's colours.

    It is that of batches of 32 images.
    """
    errors = []
    for step in range(batches):
        pixels = images(10**9 + step, 32, device, random_colours=0.0)
        errors.append(
            ((vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1) - pixels) / 2).square().mean()
        )
    return -10 * math.log10(float(torch.stack(errors).mean()))


@torch.no_grad()
def spread(vae: Any, device: str, *, batches: int) -> float:
    """Returns the standard deviation of the latents over all channels, of batches of 32 images."""
    latents = [
        vae.encode(images(2 * 10**9 + step, 32, device, random_colours=0.0)).latent_dist.mean for step in range(batches)
    ]
    return float(torch.cat(latents).std())


def _finishes(batch: int, device: str) -> torch.Tensor:
    """Returns -1 for the smooth images that `images` puts first, 1 for the textured ones."""
    return torch.where(torch.arange(batch, device=device) < batch // 2, -1.0, 1.0)


def _crops(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Returns a crop of each image, at a multiple of the factor so that textures keep their phase."""
    places = (pixels.shape[-1] - _CROP) // FACTOR + 1
    corners = rng.integers(places, size=(len(pixels), 2)) * FACTOR
    return torch.stack(
        [image[:, y : y + _CROP, x : x + _CROP] for image, (y, x) in zip(pixels, corners.tolist(), strict=True)]
    )


def _errors(error: torch.Tensor) -> Losses:
    return {"l1": error.abs().mean(), "mse": (error**2).mean(), "edges": 0.5 * _gradients(error)}


def _gradients(error: torch.Tensor) -> torch.Tensor:
    across = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return across + down
