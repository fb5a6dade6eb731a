"""The timesteps that a stage runs, cut out of a scheduler's timesteps exactly as diffusers' pipelines cut them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import retrieve_timesteps

from imagegen_server.core import RefinerMode, RefinerSettings
from imagegen_server.models.quiet import scheduler_configured

# Schedules are computed on the CPU: schedulers index CPU tables with timesteps, and a timestep on a GPU would
# make the host wait for the device at every step. The values are the same.
_CPU = torch.device("cpu")


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
    """Sets the scheduler up for the base and returns what it runs; `switch_at` is diffusers' `denoising_end`.

    `begin_base` must follow the preparation of the latents. Raises ValueError where the scheduler does, and
    IndivisibleScheduleError.
    """
    with scheduler_configured():
        timesteps, _ = retrieve_timesteps(scheduler, num_inference_steps, _CPU)
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


def refiner_schedule(scheduler: Any, settings: RefinerSettings, base_steps: int) -> Schedule:
    """Sets the scheduler up for the refiner, at the place where it begins, and returns what it runs.

    `base_steps` is the base's `num_inference_steps`, which ensemble mode shares. Raises ValueError where the
    scheduler does, or if image-to-image mode has no schedule with the settings' number of steps.
    """
    start = settings.switch_at if settings.mode is RefinerMode.ENSEMBLE else None
    total = base_steps if start is not None else image_to_image_steps(settings)
    with scheduler_configured():
        retrieve_timesteps(scheduler, total, _CPU)
    # The method needs a scheduler from its pipeline and nothing else.
    bearer = SimpleNamespace(scheduler=scheduler)
    timesteps, executed = StableDiffusionXLImg2ImgPipeline.get_timesteps(
        bearer, total, settings.strength, _CPU, denoising_start=start
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
