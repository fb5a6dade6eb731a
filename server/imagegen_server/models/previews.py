"""Previews: what an unfinished image is going to be, for a small part of a step.

The estimate follows from what a UNet is told and what it answers, so it is the same for every scheduler: its input is
`sqrt(a) * image + sqrt(1 - a) * noise` for the `a` that belongs to its timestep, and its answer is the noise, the
image or v (Salimans & Ho 2022, appendix D). The picture is a linear projection of that latent, far cheaper than a
decode by the VAE.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from imagegen_server import shapes
from imagegen_server.core import Pixels
from imagegen_server.models.profiles import SHAPES

_SDXL_WEIGHTS = ((60.0, -60.0, 25.0, -70.0), (60.0, -5.0, 15.0, -50.0), (60.0, 10.0, -5.0, -35.0))
_SDXL_BIAS = (150.0, 140.0, 130.0)
"""Red, green and blue (0 to 255) from the four latent channels of SDXL's VAE, scaled as the UNet sees them.

From diffusers' documentation ("Pipeline callbacks", `latents_to_rgb`), after T. A. Vass, "Explaining the SDXL latent
space"."""


def denoised_estimate(
    scheduler: Any, prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor, sample: torch.Tensor
) -> torch.Tensor:
    """Returns the finished latents as one UNet evaluation estimates them, shaped like `latents`.

    `prediction` is the guided one, `sample` the latents as the scheduler scaled them for the UNet. For schedulers that
    count in noise levels instead of training timesteps the latents themselves are returned, noise included.
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    trained = getattr(scheduler, "alphas_cumprod", None)
    if trained is None or float(timestep) < 0 or kind not in _ESTIMATES:
        return latents
    signal = _signal(trained, float(timestep))
    return _ESTIMATES[kind](sample, prediction, signal**0.5, (1 - signal) ** 0.5)


_ESTIMATES: dict[str, Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]] = {
    "epsilon": lambda sample, answer, image, noise: torch.sub(sample, answer, alpha=noise).div_(image),
    "v_prediction": lambda sample, answer, image, noise: torch.sub(sample * image, answer, alpha=noise),
    "sample": lambda sample, answer, image, noise: answer,
}


def _signal(alphas_cumprod: torch.Tensor, timestep: float) -> float:
    """Returns `a` at a timestep; between two of training's the noise level is interpolated, as schedulers do."""
    at = min(timestep, len(alphas_cumprod) - 1.0)
    below = int(at)
    above = min(below + 1, len(alphas_cumprod) - 1)
    low, high = (((1 - a) / a) ** 0.5 for a in (float(alphas_cumprod[below]), float(alphas_cumprod[above])))
    level = low + (high - low) * (at - below)
    signal: float = 1 / (1 + level * level)
    return signal


class Projection:
    """A linear map from latents to small pictures: each pixel from the latents around it."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Takes the kernel, (3 * scale * scale, channels, k, k), and the bias, for pixels from 0 to 255.

        `scale` pixels of a side come from one latent, in the order of `pixel_shuffle`.
        """
        self._weight, self._bias = weight, bias + 0.5  # so that cutting the fraction off rounds
        self._scale = round((len(bias) // 3) ** 0.5)
        self._margin = weight.shape[-1] // 2

    def __call__(self, latents: torch.Tensor) -> Pixels:
        """Returns the picture of one latent, (1, channels, height, width); values beyond the range are clipped."""
        padded = latents.to(self._weight.dtype)
        if self._margin:
            padded = functional.pad(padded, [self._margin] * 4, mode="replicate")
        image = functional.conv2d(padded, self._weight, self._bias)
        levels = image.clamp_(0, 255).to(torch.uint8).cpu().numpy()
        scale, (height, width) = self._scale, levels.shape[-2:]
        parts = levels.reshape(3, scale, scale, height, width)
        rows = parts.transpose(3, 1, 4, 2, 0)  # as `pixel_shuffle` orders them, colours last
        return Pixels(width=width * scale, height=height * scale, data=rows.tobytes())


def projection_of(profile_name: str, device: torch.device) -> Projection:
    """Returns the projection for a profile's VAE: the embedded pair's own, or SDXL's."""
    if profile_name == SHAPES:
        return load_projection(shapes.PREVIEW, device)
    weight = torch.tensor(_SDXL_WEIGHTS, device=device)[:, :, None, None]
    return Projection(weight, torch.tensor(_SDXL_BIAS, device=device))


def load_projection(path: Path, device: torch.device) -> Projection:
    """Returns a projection that was fitted: the tensors `weight` and `bias` of a safetensors file."""
    from safetensors.torch import load_file  # noqa: PLC0415 - heavy

    tensors = load_file(path, device=str(device))
    return Projection(tensors["weight"].float(), tensors["bias"].float())
