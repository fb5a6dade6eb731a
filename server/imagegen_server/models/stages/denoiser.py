"""One evaluation of a UNet for several jobs at once, and each job's own scheduler step.

A job alone in its batch sees the tensors that diffusers' denoising loop would make: one row for its latent, or
two under guidance, the negative one first. In company its rows are some of the batch's; schedules, guidance and
prompts may differ from row to row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import torch

from imagegen_server.errors import NonFinite
from imagegen_server.models.evaluation.conditioning import Conditioning, join
from imagegen_server.models.evaluation.forward import Evaluate
from imagegen_server.models.failures import job_failure
from imagegen_server.models.stages.previews import Estimate
from imagegen_server.models.stages.state import Denoising

_CHECK_EVERY = 8
"""Evaluations of a job between two looks at its latents on a device where a look waits for the device. A latent that is
not finite stays so (unless its scheduler is configured to clip infinities, which is then no failure), so that the check
at the end of the stage misses nothing and the ones before it only save time. Whoever shares a batch is looked at with
the first that is due: once for all, wherever in their stages they are."""


_MOST_BATCHES: Final = 4
"""Batches whose joined conditioning is remembered: two stages of two sizes may take turns."""


class Denoiser:
    """Advances jobs in a step stage. Remembers the joined conditioning of the last batches."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._asynchronous = device.type != "cpu"
        self._joined: OrderedDict[tuple[Denoising, ...], Conditioning] = OrderedDict()
        self._pace = _Pace(device) if device.type == "cuda" else None

    @property
    def ahead(self) -> bool:
        """Whether the last evaluation may still run, where the one before it has ended."""
        return self._pace is not None and self._pace.ahead

    def settle(self) -> None:
        """Waits for all that the device was given."""
        if self._pace is not None:
            self._pace.settle()

    def advance(self, unet: Evaluate, jobs: Sequence[Denoising]) -> list[Exception | None]:
        """Executes one evaluation for each job and returns why it failed, or None, in the same order.

        Whatever the UNet raises passes through, and then no job has advanced. DeviceLost is
        raised wherever it shows.
        """
        samples = [_scaled(job, self._dtype) for job in jobs]
        predictions = self._predict(unet, jobs, samples)
        if self._pace is not None:
            self._pace.evaluated()
        failures = [_advance_one(*each) for each in zip(jobs, samples, predictions, strict=True)]
        if self._pace is not None:
            self._pace.keep()
        self._find_non_finite(jobs, failures)
        return failures

    def forget(self, job: Denoising) -> None:
        """Drops what is remembered of batches that the job was in."""
        for jobs in [jobs for jobs in self._joined if job in jobs]:  # by identity
            del self._joined[jobs]

    def clear(self) -> None:
        """Drops what is remembered of batches."""
        self._joined.clear()

    def _predict(
        self, unet: Evaluate, jobs: Sequence[Denoising], samples: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        inputs = []
        for job, sample in zip(jobs, samples, strict=True):
            inputs.extend([sample] * job.conditioning.rows)
        timesteps = [job.row_timesteps[job.done] for job in jobs]
        prediction = unet(
            inputs[0] if len(inputs) == 1 else torch.cat(inputs),
            timesteps[0] if len(timesteps) == 1 else torch.cat(timesteps),
            self._join(tuple(jobs)),
        )
        return torch.split(prediction, [job.conditioning.rows for job in jobs])

    def _join(self, jobs: tuple[Denoising, ...]) -> Conditioning:
        if len(jobs) == 1:  # nothing to join, and nothing to remember
            return jobs[0].conditioning
        joined = self._joined.get(jobs)
        if joined is None:
            joined = self._joined[jobs] = join([job.conditioning for job in jobs])
            if len(self._joined) > _MOST_BATCHES:
                self._joined.popitem(last=False)
        self._joined.move_to_end(jobs)
        return joined

    def _find_non_finite(self, jobs: Sequence[Denoising], failures: list[Exception | None]) -> None:
        due = [index for index, failure in enumerate(failures) if failure is None]
        if not any(self._is_due(jobs[index]) for index in due):
            return
        try:
            finite = torch.stack([torch.isfinite(jobs[index].latents).all() for index in due]).tolist()
            self.settle()  # at once: the look at the latents has waited
        except Exception as error:  # noqa: BLE001 - the jobs have advanced, so it is theirs
            for index in due:
                failures[index] = job_failure(error, jobs[index].stage)
            return
        for index, good in zip(due, finite, strict=True):
            job = jobs[index]
            job.checked = job.done
            if not good:
                total = len(job.timesteps)
                failures[index] = NonFinite(
                    f"{job.stage} gave non-finite latents, seen at evaluation {job.done} of {total}"
                )

    def _is_due(self, job: Denoising) -> bool:
        return not self._asynchronous or job.finished or job.done - job.checked >= _CHECK_EVERY


class _Pace:
    """Keeps the host at most one evaluation ahead of a CUDA device.

    Without it the host would queue work far ahead, and a cancelled job would go on for several steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._evaluated: torch.cuda.Event | None = None
        self._last: torch.cuda.Event | None = None

    @property
    def ahead(self) -> bool:
        """Whether the evaluation that was queued last may still run."""
        return self._last is not None

    def evaluated(self) -> None:
        """Marks the end of the evaluation that was just queued; the schedulers' steps come after it."""
        self._evaluated = self._mark()

    def keep(self) -> None:
        """Waits for the evaluation before the one that was just queued.

        Where that has ended too, because a scheduler waited for it or its kernels took longer to launch than to run,
        the host is not ahead: the rest is waited for as well, so that no time is taken for the next step's.
        """
        if self._evaluated is not None and self._evaluated.query():  # type: ignore[no-untyped-call]  # as below
            self.settle()
            return
        before, self._last = self._last, self._mark()
        if before is not None:
            before.synchronize()

    def settle(self) -> None:
        """Waits for everything that was queued."""
        self._last = None
        torch.cuda.current_stream(self._device).synchronize()

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record()
        return event


def _scaled(job: Denoising, dtype: torch.dtype) -> torch.Tensor:
    """Returns what the UNet sees of a job's latents."""
    sample: torch.Tensor = job.scheduler.scale_model_input(job.latents, job.timesteps[job.done])
    return sample.to(dtype)


def _advance_one(job: Denoising, sample: torch.Tensor, rows: torch.Tensor) -> Exception | None:
    try:
        if len(rows) > 1:
            unconditional, conditional = rows.chunk(2)
            prediction = unconditional + job.guidance_scale * (conditional - unconditional)
        else:
            prediction = rows
        timestep = job.timesteps[job.done]
        job.estimate = None
        if job.preview_due:
            job.estimate = Estimate(job.scheduler, timestep, job.latents, sample, prediction)
        latents = job.scheduler.step(prediction, timestep, job.latents, **job.step_arguments, return_dict=False)[0]
    except Exception as error:  # noqa: BLE001 - any failure of one job's scheduler must leave the others advanced
        return job_failure(error, job.stage)
    # Where a scheduler promotes the latents, diffusers rounds them back on Apple devices and stops elsewhere.
    job.latents = latents.to(job.latents.dtype)
    job.done += 1
    return None
