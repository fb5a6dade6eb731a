"""What a denoiser remembers of its batches. What it computes is compared with diffusers in tests/integration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from imagegen_server.core import Stage
from imagegen_server.errors import NonFinite
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


class Looks(Denoiser):
    """Behaves as on a GPU, where a look at the latents waits, and notes when it looked."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), torch.float32)
        self._asynchronous = True
        self.evaluations = 0
        self.looked: list[int] = []

    def settle(self) -> None:
        """A look has waited for the device."""
        self.looked.append(self.evaluations)

    def step(self, unet: Recorder, jobs: list[Denoising]) -> list[Exception | None]:
        """Advances, and counts."""
        self.evaluations += 1
        return self.advance(unet, jobs)


def test_all_of_a_batch_are_looked_at_together(unet: Recorder) -> None:
    """Wherever in their stages they are: the device is waited for in every eighth evaluation, and at each one's end."""
    denoiser, jobs = Looks(), [denoising(float(i)) for i in range(4)]
    while any(not job.finished for job in jobs):
        begun = denoiser.evaluations + 1  # they join one by one
        denoiser.step(unet, [job for job in jobs[:begun] if not job.finished])
    assert denoiser.looked == [8, 16, 20, 21, 22, 23]


def test_latents_that_are_not_finite_are_found_within_eight_evaluations(unet: Recorder) -> None:
    """And only their own job is told."""
    denoiser, good, bad = Looks(), denoising(1), denoising(2)
    for _ in range(3):
        denoiser.step(unet, [good, bad])
    bad.latents = bad.latents * float("nan")
    found = [denoiser.step(unet, [good, bad]) for _ in range(5)]
    assert all(failure is None for step in found[:-1] for failure in step)
    assert found[-1][0] is None
    assert isinstance(found[-1][1], NonFinite)


class Event:
    """Stands for a CUDA event; `over` says whether the device has come to those made so far."""

    over = False
    waited = 0

    def record(self) -> None:
        """Notes nothing."""

    def query(self) -> bool:
        """Whether the device has come to it."""
        return Event.over

    def synchronize(self) -> None:
        """Waits for it."""
        Event.waited += 1


@pytest.mark.parametrize("waits", [False, True])
def test_a_scheduler_that_waits_for_the_device_puts_the_host_no_longer_ahead(
    unet: Recorder, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As EulerAncestral does, whose noise comes from the host: what the step took was its own evaluation's time."""
    settled: list[bool] = []
    stream = SimpleNamespace(synchronize=lambda: settled.append(True))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(Event, "over", waits)
    monkeypatch.setattr(Event, "waited", 0)
    denoiser, job = Denoiser(torch.device("cuda"), torch.float32), denoising(1)
    for _ in range(3):
        denoiser.advance(unet, [job])
        assert denoiser.ahead is not waits
    assert (len(settled), Event.waited) == ((3, 0) if waits else (0, 2))
