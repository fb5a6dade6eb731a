"""The runner of a real pair: Stable Diffusion XL's base and refiner, step by step and many jobs at once.

It knows nothing of queues, callers or time: it does what one call asks and keeps a job's tensors in `job.state`.

Noise comes from a CPU generator for each image, seeded once and used by the base and then the refiner, as when a
diffusers user passes one `torch.Generator` to both calls. diffusers recommends CPU generators for results that do
not depend on the device; drawing a latent there costs well under a millisecond.

Everything computes under `inference_mode`: the same bits as under diffusers' `no_grad`, and 5 to 7 % less time where
calls cost more than arithmetic. A module that is moved to the device inside it would be left with parameters that
normal code may not touch, so modules are moved before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from imagegen_server.core import (
    STEP_STAGES,
    Adaptation,
    Feature,
    GenerationRequest,
    Job,
    LatentShape,
    LoadedModel,
    Plan,
    Stage,
    StepResult,
)
from imagegen_server.errors import OutOfDeviceMemory, StageError, StartupError
from imagegen_server.models.evaluation.forward import Evaluate
from imagegen_server.models.evaluation.preparation import evaluators, prepare
from imagegen_server.models.evaluation.tuning import Tuning
from imagegen_server.models.failures import device_failure, free_cached_memory, job_failure
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.relief import Relief
from imagegen_server.models.stages import text
from imagegen_server.models.stages.decode import decode
from imagegen_server.models.stages.embeddings import EmbeddingCache
from imagegen_server.models.stages.planning import Planner
from imagegen_server.models.stages.schedulers import SchedulerFactory
from imagegen_server.models.stages.state import JobState, state_of
from imagegen_server.models.stages.steps import StepStages


class SDXLRunner:
    """Implements `engine.runner.Runner` for a loaded pair."""

    def __init__(self, pair: LoadedPair, tuning: Tuning | None = None) -> None:
        """Takes over the pair; without a tuning it runs as is usual for its device.

        Raises StartupError for a UNet distilled to take its guidance as an input.
        """
        for pipeline in (pair.base, pair.refiner):
            if pipeline is not None and pipeline.unet.config.time_cond_proj_dim is not None:
                raise StartupError("UNets with an embedded guidance scale (time_cond_proj_dim) are not supported")
        self._pair: LoadedPair | None = pair
        self._device = pair.device
        base = SchedulerFactory(pair.base.scheduler.config)
        refiner: SchedulerFactory | None = None
        if pair.refiner is not None:
            own = dict(pair.refiner.scheduler.config)
            refiner = base if own == dict(pair.base.scheduler.config) else SchedulerFactory(own)
        self._planner = Planner(
            precision=pair.precision, vae_scale_factor=pair.base.vae_scale_factor, base=base, refiner=refiner
        )
        self._steps = StepStages(pair, base, refiner)
        self._embeddings = EmbeddingCache()
        self._tuning = tuning or Tuning()
        self._unets: dict[Stage, Evaluate] = {}
        self._relief = Relief(self._unets)
        self._unets.update(evaluators(pair, self._tuning, self._relief.note))
        self._row_knees = _knees_that_fit(pair, self._tuning, self._relief)
        self._description = _describe(pair, self._row_knees)

    def prepare(self, cache: Path | None = None) -> None:
        """Compiles and warms up what the tuning names; on the device thread, before the first step.

        `cache` is where compiled code is kept between starts. Where compiling fails, `adaptations` tells it.
        """
        prepare(self._loaded, self._unets, self._tuning, cache=cache, note=self._relief.note)

    def plan(self, request: GenerationRequest) -> Plan:
        """Returns what the request will execute. Callable from any thread; raises as the protocol says."""
        return self._planner.plan(request)

    def describe(self) -> LoadedModel:
        """Returns what is loaded, with the memory plan in force. Callable from any thread."""
        return self._description

    def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        """Executes one evaluation of `stage` for every job; see the protocol.

        Where memory runs out, what `relief` lists is given up until the step fits. Raises OutOfDeviceMemory if nothing
        is left to give up, or fewer jobs should be tried first, and DeviceLost.
        """
        while True:
            outcome = self._attempt(stage, jobs)
            if not isinstance(outcome, StageError):
                return outcome
            # Here, outside the handler: the exception that it had would keep the failed step's tensors alive.
            if not isinstance(outcome, OutOfDeviceMemory) or not self._relief.take(
                self._loaded, stage, jobs, self._shape(jobs)
            ):
                raise outcome
            self._description = _describe(self._loaded, self._row_knees)

    def _attempt(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult] | StageError:
        """Returns the results, or how the device failed; then no job has advanced."""
        execute = self._execution(stage)
        try:
            if stage is not Stage.TEXT_ENCODE:  # whose encoders are brought when a text is not known
                self._loaded.bring(stage)
            with torch.inference_mode():
                return execute(jobs)
        except Exception as error:
            failure = device_failure(error, stage)
            if failure is None:
                raise
            return failure

    def _shape(self, jobs: Sequence[Job]) -> tuple[int, int]:
        """Returns the latent's height and width."""
        factor = self._loaded.base.vae_scale_factor
        return jobs[0].request.height // factor, jobs[0].request.width // factor

    def ahead(self) -> bool:
        """Returns whether the last step was queued behind one that has ended, and may still run; never on a CPU."""
        return self._steps.ahead

    def settle(self) -> None:
        """Waits until the device has done all that it was given."""
        self._steps.settle()

    def release(self, job: Job) -> None:
        """Frees what the job holds."""
        state, job.state = job.state, None
        if isinstance(state, JobState):
            self._steps.abandon(state)

    def adaptations(self) -> Sequence[Adaptation]:
        """Returns what was given up since the last call."""
        return self._relief.adaptations()

    def peak_memory_bytes(self) -> int | None:
        """Most bytes allocated on the device since `reset_peak_memory`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None

    def reset_peak_memory(self) -> None:
        """Begins a new measurement of `peak_memory_bytes`."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def close(self) -> None:
        """Frees the models."""
        self._pair = None
        self._steps.clear()
        self._relief.close()
        self._embeddings.clear()
        with suppress(RuntimeError):  # a device that was lost says so again
            free_cached_memory(self._device)

    @property
    def _loaded(self) -> LoadedPair:
        if self._pair is None:
            raise RuntimeError("the runner is closed")
        return self._pair

    def _execution(self, stage: Stage) -> Callable[[Sequence[Job]], list[StepResult]]:
        if stage is Stage.TEXT_ENCODE:
            return self._encode
        if stage is Stage.VAE_DECODE:
            return self._decode
        if stage in STEP_STAGES:
            return lambda jobs: self._steps.advance(self._loaded, self._unet(stage), stage, jobs)
        raise ValueError(f"{stage} is not a device stage")

    def _encode(self, jobs: Sequence[Job]) -> list[StepResult]:
        request = jobs[0].request
        encoded, reuse = text.encode(self._loaded, request, self._embeddings)
        conditioning = {stage: self._unet(stage).project(each) for stage, each in encoded.items()}
        for job in jobs:
            generator = torch.Generator(device="cpu").manual_seed(job.seed)
            job.state = JobState(generator=generator, conditioning=conditioning)
        cuts = text.truncations(self._loaded, request)
        self._steps.settle()  # so that no step is taken for the encoders' time
        first = StepResult(truncations=cuts, text_reuse=reuse)
        return [first, *(StepResult() for _ in jobs[1:])]

    def _unet(self, stage: Stage) -> Evaluate:
        if stage not in self._unets:
            raise RuntimeError(f"the {stage} is not loaded")
        return self._unets[stage]

    def _decode(self, jobs: Sequence[Job]) -> list[StepResult]:
        # One at a time: decoding is where activations are largest, and its cost per image does not fall in company.
        results = [self._decode_one(job) for job in jobs]
        self._steps.settle()  # at once: the pixels are here
        return results

    def _decode_one(self, job: Job) -> StepResult:
        pair, state = self._loaded, state_of(job)
        self._steps.abandon(state)
        source = job.decode_from if pair.refiner is not None else Stage.BASE
        try:
            if source not in state.final:
                raise RuntimeError(f"{source} of image {job.index} of {job.request.request_id} is not complete")
            tiled = self._relief.tiled(job, self._shape((job,)))
            return StepResult(pixels=decode(pair.base, state.final[source], tiled=tiled), tiled=tiled)
        except Exception as error:
            if device_failure(error, Stage.VAE_DECODE) is not None:
                raise  # not this job's doing
            return StepResult(failure=job_failure(error, Stage.VAE_DECODE))


def _describe(pair: LoadedPair, row_knees: Mapping[LatentShape, int]) -> LoadedModel:
    return LoadedModel(
        profile=pair.profile,
        device=pair.device_info,
        precision=pair.precision,
        memory_plan=pair.memory_plan,
        refiner_loaded=pair.refiner is not None,
        packages=pair.packages,
        row_knees=row_knees,
    )


def _knees_that_fit(pair: LoadedPair, tuning: Tuning, relief: Relief) -> dict[LatentShape, int]:
    """Returns the measured rows, or fewer where there is no memory for them: it was measured with nothing beside."""
    if pair.most_rows is None:
        return dict(tuning.rows)
    defaults, factor = pair.profile.defaults, pair.base.vae_scale_factor
    native = (defaults.height // factor) * (defaults.width // factor)
    knees = {}
    for shape, rows in tuning.rows.items():
        knees[shape] = min(rows, max(2, pair.most_rows * native // (shape[0] * shape[1])))
        if knees[shape] < rows:
            told = f"{knees[shape]} rows of {shape[0]}x{shape[1]} latents, not the {rows} of the tuning"
            relief.note(Feature.BATCH_ROWS, told)
    return knees
