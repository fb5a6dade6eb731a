"""What a denoiser remembers of its batches. What it computes is compared with diffusers in tests/integration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from imagegen_server.core import Stage
from imagegen_server.models.evaluation.conditioning import Conditioning, join
from imagegen_server.models.stages.denoiser import Denoiser
from imagegen_server.models.stages.state import Denoising

STEPS = 20


def conditioning(*values: float, projected: bool = True) -> Conditioning:
    """Returns one with a row for each value."""
    rows = torch.tensor(values)
    projections = (rows[:, None].repeat(1, 7), rows[:, None, None].repeat(1, 2, 3)) if projected else ()
    return Conditioning(
        embeddings=rows[:, None, None].repeat(1, 77, 4),
        pooled=rows[:, None].repeat(1, 5),
        time_ids=rows[:, None].repeat(1, 6),
        projections=projections,
    )


def denoising(*values: float) -> Denoising:
    """Returns a job in the base with a row for each value."""
    scheduler: Any = EulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps
    return Denoising(
        stage=Stage.BASE,
        scheduler=scheduler,
        timesteps=tuple(timesteps),
        row_timesteps=timesteps[:, None].repeat(1, len(values)),
        latents=torch.zeros(1, 4, 8, 8),
        conditioning=conditioning(*values),
        guidance_scale=2.0,
        step_arguments={},
    )


class Recorder:
    """Predicts nothing, and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Conditioning] = []

    def __call__(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        assert len(sample) == len(timesteps) == conditioning.rows
        self.given.append(conditioning)
        return torch.zeros_like(sample)

    def project(self, conditioning: Conditioning) -> Conditioning:
        return conditioning

    def clear(self) -> None:
        pass


@pytest.fixture
def unet() -> Recorder:
    return Recorder()


@pytest.fixture
def denoiser() -> Denoiser:
    return Denoiser(torch.device("cpu"), torch.float32)


def test_batches_that_take_turns_are_joined_once(denoiser: Denoiser, unet: Recorder) -> None:
    """Two stages of two sizes are four batches: none is joined anew while its jobs stay the same."""
    batches = [[denoising(i, i + 0.5), denoising(-i)] for i in range(1, 5)]
    for batch in [*batches, *batches]:
        assert denoiser.advance(unet, batch) == [None, None]
    assert [given.embeddings[:, 0, 0].tolist() for given in unet.given[:2]] == [[1, 1.5, -1], [2, 2.5, -2]]
    assert all(first is again for first, again in zip(unet.given[:4], unet.given[4:], strict=True))


def test_a_batch_with_others_in_it_is_another(denoiser: Denoiser, unet: Recorder) -> None:
    """Also the same jobs in another order."""
    one, other, third = denoising(1), denoising(2), denoising(3)
    for batch in ([one, other], [other, one], [one, third], [one, other]):
        denoiser.advance(unet, batch)
    assert [given.pooled[:, 0].tolist() for given in unet.given] == [[1, 2], [2, 1], [1, 3], [1, 2]]


def test_what_is_remembered_is_bounded_and_dropped_with_a_job(denoiser: Denoiser, unet: Recorder) -> None:
    """The batch that was longest ago makes room; a job that leaves takes its batches with it."""
    jobs = [denoising(i) for i in range(6)]
    for job in jobs[1:]:
        denoiser.advance(unet, [jobs[0], job])
    kept = set(denoiser._joined)
    assert kept == {(jobs[0], job) for job in jobs[2:]}
    denoiser.forget(jobs[3])
    assert set(denoiser._joined) == kept - {(jobs[0], jobs[3])}
    denoiser.clear()
    assert not denoiser._joined


def test_projections_are_joined_if_all_have_them() -> None:
    """A generation that began without them makes the batch do without."""
    both = join([conditioning(1, 2), conditioning(3)])
    assert [part.flatten(1)[:, 0].tolist() for part in both.projections] == [[1, 2, 3], [1, 2, 3]]
    assert [tuple(part.shape) for part in both.projections] == [(3, 7), (3, 2, 3)]
    assert join([conditioning(1, 2), conditioning(3, projected=False)]).projections == ()
