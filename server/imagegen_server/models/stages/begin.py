"""The beginning of each step stage, and the hand-off between them.

Everything here mirrors the parts of diffusers' `StableDiffusionXLPipeline.__call__` and
`StableDiffusionXLImg2ImgPipeline.__call__` that come before their denoising loops, through their own methods.
"""

from __future__ import annotations

from typing import Any

import torch

from imagegen_server.core import GenerationRequest, RefinerMode, RefinerSettings, Stage
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.stages.schedule import (
    Schedule,
    base_schedule,
    begin_base,
    refiner_schedule,
    refiner_total,
)
from imagegen_server.models.stages.state import Denoising, JobState

_ETA = 0.0
"""diffusers' default; only DDIM reads it."""


class ScheduledPipeline:
    """A pipeline as one job sees it: everything is the shared pipeline's but the scheduler.

    The pipelines' own methods run on it without the shared object being touched, in any thread.
    """

    def __init__(self, pipeline: Any, scheduler: Any) -> None:
        self._pipeline = pipeline
        self.scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Returns what the pipeline's method returns when it uses this object's scheduler."""
        return getattr(type(self._pipeline), method)(self, *args, **kwargs)


def begin_base_stage(pair: LoadedPair, scheduler: Any, request: GenerationRequest, state: JobState) -> Denoising:
    """Returns the base stage of a job, ready for its first evaluation: noise from the job's generator.

    `scheduler` is the job's own, prepared for the request's steps.
    """
    settings = request.refiner if pair.refiner is not None else None
    switch_at = settings.switch_at if settings is not None else None
    schedule = base_schedule(scheduler, request.num_inference_steps, switch_at)
    conditioning = state.conditioning[Stage.BASE]
    latents = ScheduledPipeline(pair.base, scheduler).call(
        "prepare_latents",
        1,
        pair.base.unet.config.in_channels,
        request.height,
        request.width,
        conditioning.embeddings.dtype,
        pair.device,
        state.generator,
    )
    begin_base(scheduler)
    return _denoising(Stage.BASE, pair.base, scheduler, schedule, latents, state, request.guidance_scale)


def begin_refiner_stage(
    pair: LoadedPair, scheduler: Any, request: GenerationRequest, settings: RefinerSettings, state: JobState
) -> Denoising:
    """Returns the refiner stage of a job, ready for its first evaluation: the hand-off.

    image_to_image adds noise from the job's generator to the base's latent; ensemble goes on from it as it is.
    `scheduler` is the job's own, prepared for `refiner_total`.
    """
    pipeline: Any = pair.refiner
    schedule = refiner_schedule(scheduler, settings, refiner_total(settings, request.num_inference_steps))
    image = pipeline.image_processor.preprocess(state.final[Stage.BASE])
    conditioning = state.conditioning[Stage.REFINER]
    latents = ScheduledPipeline(pipeline, scheduler).call(
        "prepare_latents",
        image,
        schedule.timesteps[:1],
        1,
        1,
        conditioning.embeddings.dtype,
        pair.device,
        state.generator,
        settings.mode is RefinerMode.IMAGE_TO_IMAGE,
    )
    return _denoising(Stage.REFINER, pipeline, scheduler, schedule, latents, state, settings.guidance_scale)


def _denoising(
    stage: Stage,
    pipeline: Any,
    scheduler: Any,
    schedule: Schedule,
    latents: torch.Tensor,
    state: JobState,
    guidance_scale: float,
) -> Denoising:
    conditioning = state.conditioning[stage]
    # DPMSolverSDEScheduler's, drawn anew for each call if unset
    if getattr(scheduler, "noise_sampler_seed", 0) is None:
        scheduler.noise_sampler_seed = state.generator.initial_seed()
    row_timesteps = schedule.timesteps.to(device=latents.device, dtype=torch.float32)
    return Denoising(
        stage=stage,
        scheduler=scheduler,
        timesteps=tuple(schedule.timesteps),
        row_timesteps=row_timesteps[:, None].repeat(1, conditioning.rows),
        latents=latents,
        conditioning=conditioning,
        guidance_scale=guidance_scale,
        step_arguments=ScheduledPipeline(pipeline, scheduler).call("prepare_extra_step_kwargs", state.generator, _ETA),
    )
