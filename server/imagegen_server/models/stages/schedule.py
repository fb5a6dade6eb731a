"""The timesteps that a stage runs, cut out of a scheduler's timesteps exactly as diffusers' pipelines cut them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

from imagegen_server.core import RefinerMode, RefinerSettings


class IndivisibleScheduleError(ValueError):
    """The scheduler counts in noise levels, not in training timesteps: no fraction of its schedule can be cut off."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Schedule:
    """What one stage of one job executes."""

    timesteps: torch.Tensor
    """One for each UNet evaluation, on the CPU."""
    steps: int
    """Denoising steps, as diffusers' progress bar counts them."""

    @property
    def evaluations(self) -> int:
        """UNet evaluations; second-order schedulers need two for most steps."""
        return len(self.timesteps)


def base_schedule(scheduler: Any, num_inference_steps: int, switch_at: float | None) -> Schedule:
    """Returns what the base runs of a scheduler prepared for `num_inference_steps`.

    `switch_at` is diffusers' `denoising_end`. `begin_base` must follow the preparation of the latents. Raises
    IndivisibleScheduleError.
    """
    timesteps = scheduler.timesteps
    warmup = max(len(timesteps) - num_inference_steps * scheduler.order, 0)
    if switch_at is not None:
        if bool((timesteps < 0).any()):
            raise IndivisibleScheduleError(
                f"{type(scheduler).__name__} cannot divide its schedule between base and refiner"
            )
        timesteps = timesteps[: int((timesteps >= _cutoff(scheduler, switch_at)).sum())]
    return Schedule(timesteps=timesteps, steps=_steps(len(timesteps), warmup, scheduler.order))


def begin_base(scheduler: Any) -> None:
    """Places a scheduler at the beginning of its schedule, where it has such a notion."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def refiner_total(settings: RefinerSettings, base_steps: int) -> int:
    """Returns the number of steps to prepare the refiner's scheduler for: diffusers' `num_inference_steps`.

    Ensemble mode shares the base's. Raises ValueError if image-to-image mode has no schedule with the settings'
    executed steps.
    """
    return base_steps if settings.mode is RefinerMode.ENSEMBLE else image_to_image_steps(settings)


def refiner_schedule(scheduler: Any, settings: RefinerSettings, total: int) -> Schedule:
    """Returns what the refiner runs of a scheduler prepared for `refiner_total`, and moves it to where it begins."""
    start = settings.switch_at if settings.mode is RefinerMode.ENSEMBLE else None
    # The method needs a scheduler from its pipeline and nothing else; the timesteps are on the CPU already.
    bearer = SimpleNamespace(scheduler=scheduler)
    timesteps, executed = StableDiffusionXLImg2ImgPipeline.get_timesteps(
        bearer, total, settings.strength, scheduler.timesteps.device, denoising_start=start
    )
    warmup = max(len(timesteps) - executed * scheduler.order, 0)
    return Schedule(timesteps=timesteps, steps=_steps(len(timesteps), warmup, scheduler.order))


def image_to_image_steps(settings: RefinerSettings) -> int:
    """Returns diffusers' `num_inference_steps` for the refiner's executed steps and strength.

    It is the smallest N with `min(int(N * strength), N)` equal to the executed steps, in the same floating-point
    arithmetic. Raises ValueError if there is none.
    """
    executed, strength = settings.num_inference_steps, settings.strength
    if executed is None or strength is None:
        raise ValueError("image-to-image mode needs num_inference_steps and strength")
    exact = executed / strength
    guess = max(int(exact) - 1, 1) if math.isfinite(exact) else 0
    for total in range(guess, guess + 4):
        if min(int(total * strength), total) == executed:
            return total
    raise ValueError(f"no schedule executes {executed} steps at strength {strength}")


def _cutoff(scheduler: Any, fraction: float) -> int:
    """Returns the training timestep at which diffusers divides a schedule after `fraction` of it."""
    trained: int = scheduler.config.num_train_timesteps
    return round(trained - (fraction * trained))


def _steps(evaluations: int, warmup: int, order: int) -> int:
    counted = range(1, evaluations)
    return sum(1 for done in counted if done > warmup and done % order == 0) + min(evaluations, 1)
