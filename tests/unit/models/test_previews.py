"""Previews: the estimate agrees with diffusers' own, and the projection with the pictures it stands for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
from torch.nn import functional

from imagegen_server.models.stages.previews import Estimate, Preview, Projection, projection_of

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
        estimate = Estimate(scheduler, timestep, latents, sample, prediction)
        at_once = estimate.by_torch()
        output = scheduler.step(prediction, timestep, latents)
        assert torch.allclose(at_once, output.pred_original_sample, rtol=2e-3, atol=2e-3)
        assert estimate.is_for_numpy
        np.testing.assert_allclose(estimate.by_numpy(), at_once.numpy(), rtol=1e-5, atol=1e-5)
        latents = output.prev_sample


def test_between_two_training_timesteps_the_noise_level_is_interpolated() -> None:
    """As schedulers with Karras' levels have it."""
    scheduler: Any = EulerDiscreteScheduler(**TRAINED, use_karras_sigmas=True)
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
    estimate = Estimate(scheduler, timestep, latents, sample, prediction).by_torch()
    assert torch.allclose(estimate, expected, rtol=1e-2, atol=1e-2)


def test_a_scheduler_that_counts_in_noise_levels_shows_the_latents() -> None:
    """There is no training timestep to look up."""
    scheduler: Any = EulerDiscreteScheduler(**TRAINED)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(1, 4, 8, 8)
    estimate = Estimate(scheduler, torch.tensor(-1.5), latents, latents.clone(), latents.clone())
    assert estimate.by_torch() is latents


@pytest.mark.parametrize(
    ("prediction_type", "expected"),
    [
        ("epsilon", lambda latents, _: latents),
        ("v_prediction", lambda _, answer: -answer),
        ("sample", lambda _, answer: answer),
    ],
)
def test_an_input_of_nothing_but_noise_has_an_estimate(prediction_type: str, expected: Any) -> None:
    """At the first step of a schedule that was rescaled to begin there: what the answer says, or the input."""
    scheduler: Any = DDIMScheduler(
        **TRAINED, prediction_type=prediction_type, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(STEPS)
    first = scheduler.timesteps[0]
    assert float(scheduler.alphas_cumprod[int(first)]) == 0
    latents, answer = torch.randn(2, 1, 4, 8, 8)
    estimate = Estimate(scheduler, first, latents, latents, answer)
    assert torch.equal(estimate.by_torch(), expected(latents, answer))


def test_the_projection_keeps_the_order_of_its_pixels() -> None:
    """A kernel that copies: each latent becomes a block of `scale` squared pixels, channels in RGB order."""
    weight = np.zeros((12, 1, 1, 1), dtype=np.float32)
    weight[:4] = 1.0  # red alone
    latent = np.array([[[10.0, 20.0, 30.0], [40.0, 50.0, 300.0]]], dtype=np.float32)
    picture = Projection(weight, np.zeros(12, dtype=np.float32))(latent)
    pixels = np.frombuffer(picture.data, dtype=np.uint8).reshape(picture.height, picture.width, 3)
    assert (picture.width, picture.height) == (6, 4)
    assert pixels[..., 0].tolist() == [[10, 10, 20, 20, 30, 30]] * 2 + [[40, 40, 50, 50, 255, 255]] * 2
    assert not pixels[..., 1:].any()


@pytest.mark.parametrize("side", [1, 3, 5])
def test_the_projection_is_torchs_convolution_and_shuffle(side: int) -> None:
    """With the border repeated, rounded and clipped; sizes that are no square and the least there is, too."""
    generator = torch.Generator().manual_seed(side)
    weight = 40 * torch.randn(12, 4, side, side, generator=generator)
    bias = 128 + 20 * torch.randn(12, generator=generator)
    projection = Projection(weight.numpy(), bias.numpy())
    for height, width in ((1, 1), (5, 9), (16, 16)):
        latents = torch.randn(1, 4, height, width, generator=generator)
        padded = functional.pad(latents, [side // 2] * 4, mode="replicate")
        image = functional.pixel_shuffle(functional.conv2d(padded, weight, bias), 2)[0].permute(1, 2, 0)
        picture = projection(latents[0].numpy())
        drawn = np.frombuffer(picture.data, dtype=np.uint8).reshape(picture.height, picture.width, 3)
        assert drawn.shape == (2 * height, 2 * width, 3)
        assert np.abs(drawn - image.clamp(0, 255).numpy()).max() <= 0.501


def test_sdxls_projection_is_the_published_one() -> None:
    """A latent of zeros is the documented grey; one channel moves the three colours by its weights."""
    projection = projection_of("sdxl")
    latent = np.zeros((4, 1, 1), dtype=np.float32)
    assert tuple(projection(latent).data) == (150, 140, 130)
    latent[0] = 1.0
    assert tuple(projection(latent).data) == (210, 200, 190)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_drawn_all_the_same(value: float) -> None:
    """A preview never fails a generation that may still be saved; the step's own check reports it."""
    latents = np.full((4, 2, 2), value, dtype=np.float32)
    assert set(projection_of("sdxl")(latents).data) <= {0, 255}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_preview_is_drawn_on_any_thread(dtype: torch.dtype) -> None:
    """From what the device thread left: in single precision as it was, in half precision a copy of the estimate."""
    scheduler: Any = EulerDiscreteScheduler(**TRAINED)
    scheduler.set_timesteps(STEPS)
    timestep = scheduler.timesteps[STEPS // 2]
    with torch.inference_mode():
        tensors = [torch.linspace(-1, end, 16).reshape(1, 4, 2, 2).to(dtype) for end in (1, 2, 3)]
        estimate = Estimate(scheduler, timestep, *tensors)
        expected = projection_of("sdxl")(estimate.by_torch()[0].float().numpy().copy())
        preview = Preview(estimate, projection_of("sdxl"))
        assert estimate.is_for_numpy == (dtype is torch.float32)
    with ThreadPoolExecutor(1) as other:
        drawn = other.submit(preview).result()
    levels = [np.frombuffer(picture.data, dtype=np.uint8).astype(int) for picture in (drawn, expected)]
    assert np.abs(levels[0] - levels[1]).max() <= 1  # numpy and torch may round a level differently


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_estimate_that_is_not_finite_is_drawn_without_a_warning(value: float) -> None:
    scheduler: Any = EulerDiscreteScheduler(**TRAINED, prediction_type="v_prediction")
    scheduler.set_timesteps(STEPS)
    latents = torch.full((1, 4, 2, 2), value)
    estimate = Estimate(scheduler, scheduler.timesteps[3], latents, latents, latents)
    assert set(Preview(estimate, projection_of("sdxl"))().data) <= {0, 255}
