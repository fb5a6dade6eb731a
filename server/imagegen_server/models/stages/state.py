"""What the runner keeps in `job.state`: the only tensors that outlive a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from imagegen_server.core import Job, Stage
from imagegen_server.models.evaluation.conditioning import Conditioning
from imagegen_server.models.stages.previews import Estimate


@dataclass(kw_only=True, slots=True, eq=False)
class Denoising:
    """One job in one step stage."""

    stage: Stage
    scheduler: Any
    timesteps: tuple[torch.Tensor, ...]
    """As the scheduler wants them: one 0-d CPU tensor for each evaluation."""
    row_timesteps: torch.Tensor
    """As the UNet wants them: (evaluations, rows), fp32, on the device."""
    latents: torch.Tensor
    """(1, channels, height, width), on the device."""
    conditioning: Conditioning
    guidance_scale: float
    step_arguments: Mapping[str, Any]
    """eta and generator, for the schedulers that take them."""
    done: int = 0
    """Evaluations executed."""
    checked: int = 0
    """Of these, how many had been executed when the latents were last looked at."""
    preview_due: bool = False
    """Whether the next evaluation is to leave `estimate`."""
    estimate: Estimate | None = None
    """Of the last evaluation, if it was previewed."""

    @property
    def finished(self) -> bool:
        """Whether the stage is over."""
        return self.done >= len(self.timesteps)


@dataclass(kw_only=True, slots=True)
class JobState:
    """One job, from text_encode to release."""

    generator: torch.Generator
    """Seeded once; the base draws from it, then the refiner."""
    conditioning: Mapping[Stage, Conditioning]
    running: Denoising | None = None
    failures: dict[Stage, Exception] = field(default_factory=dict)
    """Why a stage could not begin: it must not be tried twice, since it may have drawn noise."""
    final: dict[Stage, torch.Tensor] = field(default_factory=dict)
    """Latents at the end of a stage. The base's stays until release, for the case that the refiner fails."""


def state_of(job: Job) -> JobState:
    """Returns a job's state. Raises RuntimeError for a job that was not text-encoded, or was released."""
    if not isinstance(job.state, JobState):
        raise RuntimeError(f"image {job.index} of {job.request.request_id} has no state: text_encode comes first")
    return job.state
