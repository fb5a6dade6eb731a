"""Previews: what an unfinished image is going to be, for a small part of a step.

The estimate follows from what a UNet is told and what it answers, so it is the same for every scheduler: its input is
`sqrt(a) * image + sqrt(1 - a) * noise` for the `a` that belongs to its timestep, and its answer is the noise, the
image or v (Salimans & Ho 2022, appendix D). The picture is a linear projection of that latent, far cheaper than a
decode by the VAE.

On a CPU the device thread keeps what the estimate follows from; with a GPU it makes the estimate and begins to copy it
to the host. The rest is done by whoever wants the picture, on another thread: in numpy, since torch would make a pool
of threads for each thread that calls it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from imagegen_server import shapes
from imagegen_server.core import Pixels
from imagegen_server.models.profiles import SHAPES

Floats: TypeAlias = NDArray[np.float32]

_SDXL_WEIGHTS = ((60.0, -60.0, 25.0, -70.0), (60.0, -5.0, 15.0, -50.0), (60.0, 10.0, -5.0, -35.0))
_SDXL_BIAS = (150.0, 140.0, 130.0)
"""Red, green and blue (0 to 255) from the four latent channels of SDXL's VAE, scaled as the UNet sees them.

From diffusers' documentation ("Pipeline callbacks", `latents_to_rgb`), after T. A. Vass, "Explaining the SDXL latent
space"."""


@dataclass(slots=True)
class Estimate:
    """The finished latents as one UNet evaluation estimates them: what they follow from, until somebody wants them.

    It keeps the tensors, so nobody may write to them. For schedulers that count in noise levels instead of training
    timesteps the estimate is the latents themselves, noise included.
    """

    scheduler: Any
    timestep: torch.Tensor
    latents: torch.Tensor
    """(1, channels, height, width), before the scheduler's step."""
    sample: torch.Tensor
    """What the UNet was told: the latents as the scheduler scaled them."""
    prediction: torch.Tensor
    """What it answered, guided."""

    @property
    def is_for_numpy(self) -> bool:
        """Whether numpy can read the tensors where they are."""
        tensors = (self.latents, self.sample, self.prediction)
        return all(one.device.type == "cpu" and one.dtype is torch.float32 for one in tensors)

    def by_torch(self) -> torch.Tensor:
        """Returns the finished latents, where the evaluation was."""
        found: torch.Tensor = self._of(self.latents, self.sample, self.prediction)
        return found

    def by_numpy(self) -> Floats:
        """Returns the same, worked out by numpy. Only if `is_for_numpy`."""
        found: Floats = self._of(self.latents.numpy(), self.sample.numpy(), self.prediction.numpy())
        return found

    def _of(self, latents: Any, sample: Any, prediction: Any) -> Any:
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        trained = getattr(self.scheduler, "alphas_cumprod", None)
        timestep = float(self.timestep)
        if trained is None or timestep < 0 or kind not in _FORMULAS:
            return latents
        signal = _signal(trained, timestep)
        return _FORMULAS[kind](sample, prediction, signal**0.5, (1 - signal) ** 0.5)


_FORMULAS: Final[Mapping[str, Callable[[Any, Any, float, float], Any]]] = {
    "epsilon": lambda sample, answer, image, noise: (sample - answer * noise) / image if image else sample,
    "v_prediction": lambda sample, answer, image, noise: sample * image - answer * noise,
    "sample": lambda sample, answer, image, noise: answer,
}
"""Of tensors or of arrays. From nothing but noise an answer that is the noise tells nothing of the image."""


def _signal(alphas_cumprod: torch.Tensor, timestep: float) -> float:
    """Returns `a` at a timestep; between two of training's the noise level is interpolated, as schedulers do."""
    at = min(timestep, len(alphas_cumprod) - 1.0)
    below = int(at)
    above = min(below + 1, len(alphas_cumprod) - 1)
    low, high = (_noise_level(float(alphas_cumprod[index])) for index in (below, above))
    level = low if at == below else low + (high - low) * (at - below)
    signal: float = 1 / (1 + level * level)
    return signal


def _noise_level(signal: float) -> float:
    return ((1 - signal) / signal) ** 0.5 if signal else math.inf


class Projection:
    """A linear map from latents to small pictures: each pixel from the latents around it. Thread-safe."""

    def __init__(self, weight: Floats, bias: Floats) -> None:
        """Takes the kernel, (3 * scale * scale, channels, k, k), and the bias, for pixels from 0 to 255.

        `scale` pixels of a side come from one latent, in the order of torch's `pixel_shuffle`.
        """
        self._weight = weight.reshape(len(weight), -1).T
        self._bias = bias + np.float32(0.5)  # so that cutting the fraction off rounds
        self._scale = round((len(bias) // 3) ** 0.5)
        self._side = weight.shape[-1]

    def __call__(self, latents: Floats) -> Pixels:
        """Returns the picture of a latent, (channels, height, width).

        Values beyond the range are clipped; what is not finite becomes black or white.
        """
        _, height, width = latents.shape
        margin = self._side // 2
        padded = np.pad(latents, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
        around = sliding_window_view(padded, (self._side, self._side), axis=(1, 2))
        each = around.transpose(1, 2, 0, 3, 4).reshape(height * width, -1)
        with np.errstate(invalid="ignore", over="ignore"):
            levels = np.nan_to_num(each @ self._weight + self._bias).clip(0, 255).astype(np.uint8)
        parts = levels.reshape(height, width, 3, self._scale, self._scale)
        rows = parts.transpose(0, 3, 1, 4, 2)  # as `pixel_shuffle` orders them, colours last
        return Pixels(width=width * self._scale, height=height * self._scale, data=rows.tobytes())


class Preview:
    """The picture of an estimate, drawn when it is called: from any thread."""

    def __init__(self, estimate: Estimate, projection: Projection) -> None:
        """On the device thread: what numpy cannot work out later is worked out, and begins to be copied to the host."""
        self._projection = projection
        self._latents = estimate.by_numpy
        self._copied: torch.cuda.Event | None = None
        if not estimate.is_for_numpy:
            latents = estimate.by_torch()
            host = torch.empty(latents.shape, dtype=torch.float32, pin_memory=latents.is_cuda)
            host.copy_(latents.float(), non_blocking=latents.is_cuda)
            self._latents = host.numpy
            if latents.is_cuda:
                self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
                self._copied.record()

    def __call__(self) -> Pixels:
        """Returns the picture. Waits for the copy without keeping a core busy."""
        if self._copied is not None:
            self._copied.synchronize()
        with np.errstate(invalid="ignore", over="ignore"):
            return self._projection(self._latents()[0])


def projection_of(profile_name: str) -> Projection:
    """Returns the projection for a profile's VAE: the embedded pair's own, or SDXL's."""
    if profile_name == SHAPES:
        return load_projection(shapes.PREVIEW)
    weight = np.array(_SDXL_WEIGHTS, dtype=np.float32)[:, :, None, None]
    return Projection(weight, np.array(_SDXL_BIAS, dtype=np.float32))


def load_projection(path: Path) -> Projection:
    """Returns a projection that was fitted: the tensors `weight` and `bias` of a safetensors file."""
    from safetensors.numpy import load_file  # noqa: PLC0415 - heavy

    tensors = load_file(path)
    return Projection(tensors["weight"].astype(np.float32), tensors["bias"].astype(np.float32))
