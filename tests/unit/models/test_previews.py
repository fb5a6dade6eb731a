"""Previews: the estimate agrees with diffusers' own, and the projection with the pictures it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

from imagegen_server.models.previews import Projection, denoised_estimate, projection_of

STEPS = 20
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "scheduler_class", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, DDIMScheduler, DDPMScheduler]
)
def test_the_estimate_is_the_schedulers_own(scheduler_class: Any, prediction_type: str) -> None:
    """Where diffusers reveals `pred_original_sample`, at every step of a schedule and for every kind of prediction."""
    if prediction_type == "sample" and "Euler" in scheduler_class.__name__:
        pytest.skip("diffusers' Euler schedulers do not implement it")
    scheduler = (
        scheduler_class(**TRAINED, prediction_type=prediction_type, clip_sample=False)
        if "DD" in (scheduler_class.__name__)
        else scheduler_class(**TRAINED, prediction_type=prediction_type)
    )
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 8, 8, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        sample = scheduler.scale_model_input(latents, timestep)
        prediction = torch.randn(latents.shape, generator=generator)
        estimate = denoised_estimate(scheduler, prediction, timestep, latents, sample)
        output = scheduler.step(prediction, timestep, latents)
        assert torch.allclose(estimate, output.pred_original_sample, rtol=2e-3, atol=2e-3)
        latents = output.prev_sample


def test_between_two_training_timesteps_the_noise_level_is_interpolated() -> None:
    """As schedulers with Karras' levels have it."""
    scheduler = EulerDiscreteScheduler(**TRAINED, use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4)) * scheduler.init_noise_sigma
    timestep = scheduler.timesteps[7]
    assert float(timestep) != int(timestep)
    for _ in range(7):
        scheduler.scale_model_input(latents, scheduler.timesteps[0])
    scheduler._step_index = 7
    prediction = torch.ones_like(latents)
    expected = latents - scheduler.sigmas[7] * prediction
    sample = scheduler.scale_model_input(latents, timestep)
    estimate = denoised_estimate(scheduler, prediction, timestep, latents, sample)
    assert torch.allclose(estimate, expected, rtol=1e-2, atol=1e-2)


def test_a_scheduler_that_counts_in_noise_levels_shows_the_latents() -> None:
    """There is no training timestep to look up."""
    scheduler = EulerDiscreteScheduler(**TRAINED)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(1, 4, 8, 8)
    assert denoised_estimate(scheduler, latents, torch.tensor(-1.5), latents, latents.clone()) is latents


def test_the_projection_keeps_the_order_of_its_pixels() -> None:
    """A kernel that copies: each latent becomes a block of `scale` squared pixels, channels in RGB order."""
    weight = torch.zeros(12, 1, 1, 1)
    weight[:4] = 1.0  # red alone
    picture = Projection(weight, torch.zeros(12))(torch.tensor([[[[10.0, 20.0, 30.0], [40.0, 50.0, 300.0]]]]))
    pixels = np.frombuffer(picture.data, dtype=np.uint8).reshape(picture.height, picture.width, 3)
    assert (picture.width, picture.height) == (6, 4)
    assert pixels[..., 0].tolist() == [[10, 10, 20, 20, 30, 30]] * 2 + [[40, 40, 50, 50, 255, 255]] * 2
    assert not pixels[..., 1:].any()


def test_sdxls_projection_is_the_published_one() -> None:
    """A latent of zeros is the documented grey; one channel moves the three colours by its weights."""
    projection = projection_of("sdxl", torch.device("cpu"))
    assert tuple(projection(torch.zeros(1, 4, 1, 1)).data) == (150, 140, 130)
    assert tuple(projection(torch.tensor([[[[1.0]], [[0.0]], [[0.0]], [[0.0]]]])).data) == (210, 200, 190)


def test_what_is_not_finite_is_drawn_all_the_same() -> None:
    """A preview never fails a generation that may still be saved; the step's own check reports it."""
    latents = torch.full((1, 4, 2, 2), float("nan"))
    assert len(projection_of("sdxl", torch.device("cpu"))(latents).data) == 12
