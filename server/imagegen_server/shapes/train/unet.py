"""The UNets: the base learns smooth scenes at every noise level, the refiner crisp, textured ones at low noise.

Both predict v (Salimans & Ho 2022) on SDXL's noise schedule. Two departures from plain training, each for something
that inference does and plain training never shows:

- *Overshoot* (base): guidance moves the latents beyond where any training image is. For a part of the examples the
  noised latents are those of an exaggerated image, while the target is still the image.
- *Hand-off* (refiner): the refiner begins with the base's smooth scene, and what is left of it shrinks with the noise
  level. For most of the examples the noised latents have that share of the smooth scene in them, for a hand-off at
  some higher noise level, while the target is the textured scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch.nn import functional

from imagegen_server.shapes.train.corpus import Latents
from imagegen_server.shapes.train.loop import Losses, Recipe, rank, run, world_size
from imagegen_server.shapes.train.text import Encoders

NATIVE_BATCH = 32
"""Images of a step at the native size, over all processes."""
REFINER_TIMESTEPS = 360
"""Training timesteps that the refiner knows; strength 0.3 begins at about 300 of 1,000, switch_at 0.8 at 200."""
_OTHER_SIZE = 0.06
"""The share of steps at another size than the native one."""
_ZEROED, _EMPTY = 0.07, 0.05
"""The shares of examples without a prompt: SDXL's base zeroes the embeddings, its refiner encodes an empty text."""
_OVERSHOT, _MOST, _OVERSHOT_FROM = 0.25, 3.0, 250
"""The share of exaggerated examples, the largest factor, and the least timestep."""
_HANDED_OFF = 0.6
_DECIDING, _DECIDING_FROM, _DECIDING_TO = 0.5, 200, 750
"""The share of the base's timesteps drawn from the noise levels that decide the shapes, and those levels."""


@dataclass(kw_only=True, frozen=True, slots=True)
class _Noised:
    """A batch of examples."""

    sample: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor
    states: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor


def train_base(unet: Any, corpora: Sequence[Latents], encoders: Encoders, steps: int, checkpoint: Path) -> None:
    """Trains the base's UNet in place. The first corpus has the native size."""
    noise = _Noise(unet)
    nothing = encoders.embed([""])
    mean = corpora[0].smooth.float().mean(dim=(0, 2, 3), keepdim=True)

    def example(corpus: Latents, rows: torch.Tensor, rng: np.random.Generator) -> _Noised:
        count = len(rows)
        clean = corpus.smooth[rows].float()
        timesteps = _timesteps(rng, count, 1000)
        factors = np.where(
            (rng.random(count) < _OVERSHOT) & (timesteps >= _OVERSHOT_FROM), rng.uniform(1, _MOST, count), 1.0
        )
        shown = (
            mean + (clean - mean) * torch.tensor(factors, dtype=torch.float32, device=clean.device)[:, None, None, None]
        )
        states, pooled = corpus.embeddings[rows].float(), corpus.pooled[rows].float()
        fate = rng.random(count)
        states, pooled = _without_prompt(states, pooled, fate < _ZEROED, 0.0, 0.0)
        states, pooled = _without_prompt(states, pooled, (fate >= _ZEROED) & (fate < _ZEROED + _EMPTY), *nothing)
        time_ids = torch.tensor([[corpus.side, corpus.side, 0.0, 0.0, corpus.side, corpus.side]] * count)
        return noise.example(shown, clean, timesteps, rng, states, pooled, time_ids)

    recipe = Recipe(name="base", steps=steps, learning_rate=1.2e-3, warm_up=200, ema_decay=0.998)
    _train(unet, recipe, corpora, example, checkpoint, seed=31)


def train_refiner(unet: Any, corpora: Sequence[Latents], encoders: Encoders, steps: int, checkpoint: Path) -> None:
    """Trains the refiner's UNet in place, on encoder 2 alone. The first corpus has the native size."""
    noise = _Noise(unet)
    width = unet.config.cross_attention_dim
    empty_states, empty_pooled = encoders.embed([""])

    def example(corpus: Latents, rows: torch.Tensor, rng: np.random.Generator) -> _Noised:
        count = len(rows)
        clean = corpus.textured[rows].float()
        timesteps = rng.integers(0, REFINER_TIMESTEPS, count)
        begun = np.where(rng.random(count) < _HANDED_OFF, rng.integers(timesteps, REFINER_TIMESTEPS), -1)
        left = torch.where(torch.tensor(begun) < 0, 0.0, noise.level(timesteps) / noise.level(np.maximum(begun, 0)))
        shown = torch.lerp(clean, corpus.smooth[rows].float(), left.float().to(clean.device)[:, None, None, None])
        states, pooled = corpus.embeddings[rows][..., -width:].float(), corpus.pooled[rows].float()
        without = rng.random(count) < _ZEROED + _EMPTY
        states, pooled = _without_prompt(states, pooled, without, empty_states[..., -width:], empty_pooled)
        scores = np.where(without & (rng.random(count) < 0.7), 2.5, rng.uniform(5.0, 7.0, count))
        sides = np.full(count, corpus.side)
        time_ids = np.stack([sides, sides, np.zeros(count), np.zeros(count), scores], axis=-1)
        return noise.example(shown, clean, timesteps, rng, states, pooled, torch.tensor(time_ids, dtype=torch.float32))

    recipe = Recipe(name="refiner", steps=steps, learning_rate=1.2e-3, warm_up=200, ema_decay=0.998)
    _train(unet, recipe, corpora, example, checkpoint, seed=32)


class _Noise:
    """SDXL's noise schedule, as training needs it."""

    def __init__(self, unet: Any) -> None:
        scheduler_class: Any = DDPMScheduler
        scheduler = scheduler_class(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self._device = unet.device
        self._signal: torch.Tensor = scheduler.alphas_cumprod.to(self._device)

    def level(self, timesteps: np.ndarray[Any, Any]) -> torch.Tensor:
        """Returns the standard deviation of the noise at timesteps, for an image of scale one; on the CPU."""
        signal = self._signal.cpu()[torch.tensor(timesteps)]
        return ((1 - signal) / signal).sqrt()

    def example(
        self,
        shown: torch.Tensor,
        clean: torch.Tensor,
        timesteps: np.ndarray[Any, Any],
        rng: np.random.Generator,
        states: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> _Noised:
        """Returns noised `shown` latents and the v whose estimate of the image is `clean`."""
        generator = torch.Generator(self._device).manual_seed(int(rng.integers(2**31)))
        at = torch.tensor(timesteps, device=self._device)
        signal = self._signal[at][:, None, None, None]
        noise = torch.randn(shown.shape, generator=generator, device=self._device)
        sample = signal.sqrt() * shown + (1 - signal).sqrt() * noise
        # the image that a prediction stands for is sqrt(signal) * sample - sqrt(1 - signal) * v
        plain = signal.sqrt() * noise - (1 - signal).sqrt() * shown
        target = plain + (shown - clean) / (1 - signal).sqrt()
        return _Noised(
            sample=sample, timesteps=at, target=target, states=states, pooled=pooled, time_ids=time_ids.to(self._device)
        )


def _train(
    unet: Any,
    recipe: Recipe,
    corpora: Sequence[Latents],
    example: Any,
    checkpoint: Path,
    *,
    seed: int,
) -> None:
    def loss_at(step: int) -> Losses:
        rng = np.random.default_rng((seed, step, rank()))
        other = len(corpora) > 1 and np.random.default_rng((seed, step)).random() < _OTHER_SIZE  # the same in all
        corpus = corpora[1 + int(rng.integers(len(corpora) - 1))] if other else corpora[0]
        pixels = (corpora[0].side / corpus.side) ** 2
        count = max(4, min(2 * NATIVE_BATCH, int(NATIVE_BATCH * pixels)) // world_size())
        batch: _Noised = example(corpus, torch.tensor(rng.integers(len(corpus), size=count)), rng)
        prediction = unet(
            batch.sample,
            batch.timesteps,
            encoder_hidden_states=batch.states,
            added_cond_kwargs={"text_embeds": batch.pooled, "time_ids": batch.time_ids},
        ).sample
        return {"v": functional.mse_loss(prediction, batch.target)}

    unet.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    run(recipe, unet, loss_at, checkpoint)
    unet.to(memory_format=torch.contiguous_format)


def _timesteps(rng: np.random.Generator, count: int, trained: int) -> np.ndarray[Any, Any]:
    deciding = rng.random(count) < _DECIDING
    return np.where(deciding, rng.integers(_DECIDING_FROM, _DECIDING_TO, count), rng.integers(0, trained, count))


def _without_prompt(
    states: torch.Tensor,
    pooled: torch.Tensor,
    rows: np.ndarray[Any, Any],
    empty_states: torch.Tensor | float,
    empty_pooled: torch.Tensor | float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the embeddings with those of `rows` replaced."""
    chosen = torch.tensor(rows, device=states.device)
    return (
        torch.where(chosen[:, None, None], torch.as_tensor(empty_states, device=states.device), states),
        torch.where(chosen[:, None], torch.as_tensor(empty_pooled, device=states.device), pooled),
    )
