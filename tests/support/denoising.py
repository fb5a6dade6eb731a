"""Drives a runner the way an engine does, without queues: one evaluation at a time, and with strangers if asked."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from imagegen_server import core


def pixels_of(runner: Any, jobs: Sequence[core.Job]) -> list[np.ndarray[Any, Any]]:
    """Runs all jobs of one generation from text to pixels, each alone in its batches; releases them."""
    encode(runner, jobs)
    images = []
    for job in jobs:
        for stage in steps_of(runner, job):
            advance(runner, stage, [job])
        images.append(decode(runner, job))
        runner.release(job)
    return images


def jobs_of(request: core.GenerationRequest) -> list[core.Job]:
    """Returns the jobs of a request."""
    return [core.Job(request, index) for index in range(request.num_images)]


def encode(runner: Any, jobs: Sequence[core.Job]) -> tuple[core.PromptTruncation, ...]:
    """Encodes the text of one generation and returns what was cut."""
    results = runner.step(core.Stage.TEXT_ENCODE, jobs)
    assert all(result.failure is None for result in results)
    truncations: tuple[core.PromptTruncation, ...] = results[0].truncations
    return truncations


def steps_of(runner: Any, job: core.Job) -> Iterator[core.Stage]:
    """Yields the stage of each evaluation that the plan announces."""
    for planned in runner.plan(job.request).stages:
        if planned.stage in core.STEP_STAGES:
            yield from [planned.stage] * planned.evaluations


def advance(runner: Any, stage: core.Stage, jobs: Sequence[core.Job]) -> None:
    """Executes one evaluation and expects every job to advance."""
    for result in runner.step(stage, jobs):
        if result.failure is not None:
            raise result.failure


def decode(runner: Any, job: core.Job) -> np.ndarray[Any, Any]:
    """Decodes one job to an array of (height, width, 3)."""
    (result,) = runner.step(core.Stage.VAE_DECODE, [job])
    if result.failure is not None:
        raise result.failure
    pixels = result.pixels
    return np.frombuffer(pixels.data, np.uint8).reshape(pixels.height, pixels.width, 3)


def started(runner: Any, *requests: core.GenerationRequest) -> list[core.Job]:
    """Returns one encoded job for each request."""
    jobs = [core.Job(each, 0) for each in requests]
    for job in jobs:
        encode(runner, [job])
    return jobs


def finish_base(runner: Any, job: core.Job) -> None:
    """Runs a job's whole base stage, alone."""
    for stage in steps_of(runner, job):
        if stage is core.Stage.BASE:
            advance(runner, core.Stage.BASE, [job])


def image_of(runner: Any, job: core.Job, **changes: Any) -> np.ndarray[Any, Any]:
    """The image that the job's request gives when nothing goes wrong."""
    again = core.Job(dataclasses.replace(job.request, **changes), job.index)
    (image,) = pixels_of(runner, [again])
    return image


@dataclasses.dataclass(slots=True)
class _Guest:
    """A job in the crowd."""

    job: core.Job
    stages: list[core.Stage]
    """What is left to run, next one last."""


class Crowd:
    """Strangers that run beside a job of the same size: each joins, stays for a while, leaves, and another comes.

    They are drawn from a seed: guidance, steps, schedulers, prompts and refiner modes differ.
    """

    def __init__(self, runner: Any, candidates: Iterable[core.GenerationRequest], *, size: int, seed: int) -> None:
        self._runner = runner
        self._random = random.Random(seed)
        self._candidates = list(candidates)
        self._size = size
        self._guests: list[_Guest] = []
        self.largest_batch = 0

    def advance_with(self, stage: core.Stage, job: core.Job) -> None:
        """Executes one evaluation of `job` together with every guest that is in the same stage."""
        self._come_and_go()
        places = {guest.job: guest.stages.pop() for guest in self._guests}
        for other in core.STEP_STAGES:
            batch = [guest for guest, place in places.items() if place is other]
            if other is stage:
                batch.insert(self._random.randrange(len(batch) + 1), job)
                self.largest_batch = max(self.largest_batch, len(batch))
            if batch:
                advance(self._runner, other, batch)

    def leave(self) -> None:
        """Sends everybody home."""
        for guest in self._guests:
            self._runner.release(guest.job)
        self._guests = []

    def _come_and_go(self) -> None:
        for guest in list(self._guests):
            if not guest.stages or self._random.random() < 0.1:
                self._runner.release(guest.job)
                self._guests.remove(guest)
        while len(self._guests) < self._size:
            request = self._random.choice(self._candidates)
            (job, *_) = jobs_of(dataclasses.replace(request, seed=self._random.randrange(1 << 31)))
            encode(self._runner, [job])
            stages = list(steps_of(self._runner, job))[::-1]
            self._guests.append(_Guest(job=job, stages=stages))


def final_latents(job: core.Job) -> torch.Tensor:
    """Returns the latent that `vae_decode` would show."""
    latents: torch.Tensor = job.state.final[job.decode_from]
    return latents
