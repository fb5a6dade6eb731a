"""The step stages of jobs: how each begins, advances in a batch, and ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from imagegen_server.core import Job, Stage, StepResult
from imagegen_server.errors import OutOfDeviceMemory
from imagegen_server.models.evaluation.forward import Evaluate
from imagegen_server.models.failures import device_failure, job_failure
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.stages.begin import begin_base_stage, begin_refiner_stage
from imagegen_server.models.stages.denoiser import Denoiser
from imagegen_server.models.stages.previews import Preview, projection_of
from imagegen_server.models.stages.schedule import refiner_total
from imagegen_server.models.stages.schedulers import SchedulerFactory
from imagegen_server.models.stages.state import Denoising, JobState, state_of

_log = logging.getLogger(__name__)


class StepStages:
    """Base and refiner of the jobs of one pair. For the device thread."""

    def __init__(self, pair: LoadedPair, base: SchedulerFactory, refiner: SchedulerFactory | None) -> None:
        """Args: the pair; what makes the base's schedulers, and the refiner's if it is loaded."""
        self._base_schedulers = base
        self._refiner_schedulers = refiner
        self._denoiser = Denoiser(pair.device, pair.dtype)
        self._projection = projection_of(pair.profile.name)

    @property
    def ahead(self) -> bool:
        """Whether the last evaluation may still run, where the one before it has ended."""
        return self._denoiser.ahead

    def settle(self) -> None:
        """Waits for all that the device was given."""
        self._denoiser.settle()

    def advance(self, pair: LoadedPair, unet: Evaluate, stage: Stage, jobs: Sequence[Job]) -> list[StepResult]:
        """Executes one evaluation for every job, beginning the stages that have not begun, in the jobs' order.

        A job's own failure is in its result. Whatever the UNet raises passes through, and what says that the device's
        memory ran out while a stage began: then no job has advanced.
        """
        begun = [self._begun(pair, stage, job) for job in jobs]
        running = [one for one in begun if isinstance(one, Denoising)]
        for job, one in zip(jobs, begun, strict=True):
            if isinstance(one, Denoising):
                one.preview_due = job.preview_due
        if not running:
            self.settle()  # nothing was queued, and nothing is to be taken for this step's
        advanced = iter(self._denoiser.advance(unet, running) if running else ())
        results = []
        for job, one in zip(jobs, begun, strict=True):
            failure = next(advanced) if isinstance(one, Denoising) else one
            if isinstance(one, Denoising) and (failure is not None or one.finished):
                self._end(job, one, failure)
            results.append(StepResult(failure=failure, preview=self._preview(one) if failure is None else None))
        return results

    def abandon(self, state: JobState) -> None:
        """Drops the stage that is running, if one is: it is over, was given up, or the job is."""
        if state.running is not None:
            self._denoiser.forget(state.running)
            state.running = None

    def clear(self) -> None:
        """Drops what is remembered of batches."""
        self._denoiser.clear()

    def _begun(self, pair: LoadedPair, stage: Stage, job: Job) -> Denoising | Exception:
        """Returns the job's stage, begun now if it was not, or why it cannot begin.

        Raises what says that the device's memory ran out: then the job can begin again, as if it had not tried.
        """
        state = state_of(job)
        if state.running is not None and state.running.stage is stage:
            return state.running
        if stage not in state.failures:
            drawn = state.generator.get_state()
            try:
                state.running = self._begin(pair, stage, job, state)
            except Exception as error:
                if isinstance(device_failure(error, stage), OutOfDeviceMemory):
                    state.generator.set_state(drawn)
                    raise
                state.failures[stage] = job_failure(error, stage)
            else:
                return state.running
        return state.failures[stage]

    def _begin(self, pair: LoadedPair, stage: Stage, job: Job, state: JobState) -> Denoising:
        request = job.request
        if stage in state.final:
            raise RuntimeError(f"{stage} of image {job.index} of {request.request_id} is already complete")
        if stage is Stage.BASE:
            scheduler = self._base_schedulers.prepare(request.scheduler, request.num_inference_steps)
            return begin_base_stage(pair, scheduler, request, state)
        if self._refiner_schedulers is None or request.refiner is None:
            raise RuntimeError(f"{request.request_id} has no refiner stage")
        total = refiner_total(request.refiner, request.num_inference_steps)
        scheduler = self._refiner_schedulers.prepare(request.scheduler, total)
        return begin_refiner_stage(pair, scheduler, request, request.refiner, state)

    def _end(self, job: Job, run: Denoising, failure: Exception | None) -> None:
        state = state_of(job)
        self.abandon(state)
        if failure is None:
            state.final[run.stage] = run.latents
        else:
            state.failures[run.stage] = failure

    def _preview(self, one: Denoising | Exception) -> Preview | None:
        """Returns the preview that is due. The job has advanced, and goes on without one that cannot be made."""
        if isinstance(one, Exception) or one.estimate is None:
            return None
        estimate, one.estimate = one.estimate, None
        try:
            return Preview(estimate, self._projection)
        except Exception as error:  # noqa: BLE001 - what was computed for it is worth more
            _log.warning("a preview was left out: %s", job_failure(error, one.stage))
            return None
