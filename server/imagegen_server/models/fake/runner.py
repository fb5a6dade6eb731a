"""A runner without models: timed stages, deterministic pixels, faults on demand. Needs no torch.

It ships so that callers can test their own integration, and their handling of every failure, without a GPU or
weights: `imagegen-server --model fake`. Faults are asked for in the prompt:

    a cat {refiner:oom}             the refiner runs out of memory at its first evaluation
    a cat {base:nan@3}              the base produces non-finite numbers at its fourth evaluation
    a cat {vae_decode:stall=2.5}    decoding takes 2.5 s longer
    a cat {noise}                   pixels that do not compress

Times are set with `--fake-script '{"evaluation": 0.05, "row": 0.01}'`; see `fake.script.FakeTiming`.

Faults: `oom`, `nan`, `error`, `lost` (the device is gone), `crash` (the process exits at once), `stall=SECONDS`, and
`tiled` for `vae_decode` (the whole image runs out of memory: it is done in tiles, which is declared, or fails for a
caller who does not accept that).
Stages: `text_encode`, `base`, `refiner`, `vae_decode`. `@N` counts evaluations of the image from 0 (default 0).
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from imagegen_server.core import (
    LATENT_FACTOR,
    Adaptation,
    DeviceInfo,
    FallbackKind,
    FallbackReason,
    Feature,
    GenerationRequest,
    Job,
    LoadedModel,
    MemoryPlan,
    ModelProfile,
    Pixels,
    Plan,
    Precision,
    PromptTruncation,
    RefinerMode,
    Residency,
    Stage,
    StagePlan,
    StepResult,
    TextReuse,
)
from imagegen_server.errors import (
    InvalidRequest,
    NonFinite,
    NotFound,
    OutOfDeviceMemory,
    RefinerUnavailable,
    Violation,
)
from imagegen_server.models.fake.script import FakeTiming, Fault, InjectedError, faults_of, raise_for_all

WORDS_THAT_FIT = 75
"""Words of a prompt that the fake text encoder sees, as CLIP sees 75 tokens between its two markers."""

_ORDERS = {"DDIMScheduler": 1, "EulerDiscreteScheduler": 1, "HeunDiscreteScheduler": 2}
SCHEDULERS = tuple(sorted(_ORDERS))
"""Schedulers that the fake runner plans like diffusers does; Heun's steps but the last take two evaluations."""


@dataclass(slots=True)
class _State:
    """What the fake device holds for a job."""

    faults: tuple[Fault, ...]
    evaluations: dict[Stage, int]


class FakeRunner:
    """Implements the engine's Runner protocol; see the module for the faults."""

    def __init__(
        self,
        profile: ModelProfile,
        *,
        timing: FakeTiming | None = None,
        refiner: bool = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._profile = profile
        self._timing = timing or FakeTiming()
        self._refiner = refiner
        self._sleep = sleep
        self._adaptations: list[Adaptation] = []
        self._last_prompt: str | None = None
        self.held: set[Job] = set()
        """Jobs that were stepped and not yet released."""

    def plan(self, request: GenerationRequest) -> Plan:
        """See the protocol."""
        order = _ORDERS.get(request.scheduler)
        if order is None:
            raise NotFound("scheduler", request.scheduler, f"scheduler {request.scheduler!r} is not known")
        refiner = request.refiner if request.use_refinement else None
        missing = refiner is not None and not self._refiner
        if missing and FallbackKind.REFINER_TO_BASE not in request.allowed_fallbacks:
            raise RefinerUnavailable("the refiner is required but not loaded")
        base, refined = request.num_inference_steps, 0
        if refiner is not None and not missing:
            if refiner.mode is RefinerMode.ENSEMBLE and refiner.switch_at is not None:
                if base < 2:
                    needed = "must be at least 2 in ensemble mode: a step for each model"
                    raise InvalidRequest((Violation(field="num_inference_steps", description=needed),))
                base = min(max(round(base * refiner.switch_at), 1), base - 1)
                refined = request.num_inference_steps - base
            else:
                refined = refiner.num_inference_steps or 0
        stages = [
            StagePlan(stage=Stage.TEXT_ENCODE, steps=0, evaluations=1, guidance_scale=0.0),
            _step_plan(Stage.BASE, base, order, request.guidance_scale),
        ]
        if refined and refiner is not None:
            stages.append(_step_plan(Stage.REFINER, refined, order, refiner.guidance_scale))
        stages.append(StagePlan(stage=Stage.VAE_DECODE, steps=0, evaluations=1, guidance_scale=0.0))
        return Plan(
            stages=tuple(stages),
            latent_shape=(request.height // LATENT_FACTOR, request.width // LATENT_FACTOR),
            precision=Precision.FP32,
            refiner_mode=refiner.mode if refined and refiner is not None else None,
            unplanned_fallback=FallbackReason.NOT_LOADED if missing else None,
        )

    def describe(self) -> LoadedModel:
        """See the protocol."""
        return LoadedModel(
            profile=self._profile,
            device=DeviceInfo(type="fake", name="no device", driver="", total_memory_bytes=0),
            precision=Precision.FP32,
            memory_plan=MemoryPlan(
                residency=Residency.BOTH,
                precision=Precision.FP32,
                available_bytes=0,
                weights_bytes=0,
                working_bytes=0,
                components=(),
                explanation="the fake runner loads nothing",
            ),
            refiner_loaded=self._refiner,
            packages={},
        )

    def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        """See the protocol."""
        faults = {}
        for job in jobs:
            self.held.add(job)
            if job.state is None:
                job.state = _State(faults=faults_of(job.request.prompt), evaluations={})
            fault = _due(job.state, stage)
            if fault is not None:
                faults[job] = fault
        self._sleep(self._seconds(stage, jobs) + sum(f.seconds for f in faults.values()))
        for fault in faults.values():
            raise_for_all(fault)
        return [self._result(stage, job, faults.get(job)) for job in jobs]

    def release(self, job: Job) -> None:
        """See the protocol."""
        self.held.remove(job)
        job.state = None

    def ahead(self) -> bool:
        """Never: a step sleeps for as long as it takes."""
        return False

    def settle(self) -> None:
        """Has nothing to wait for."""

    def adaptations(self) -> Sequence[Adaptation]:
        """Returns what a `tiled` fault made the runner give up."""
        taken, self._adaptations = self._adaptations, []
        return taken

    def peak_memory_bytes(self) -> int | None:
        """See the protocol."""
        return int(self._timing.peak_memory_bytes) or None

    def reset_peak_memory(self) -> None:
        """See the protocol."""

    def close(self) -> None:
        """See the protocol."""

    def _reuse(self, prompt: str) -> TextReuse:
        """Remembers one prompt, where real encoders remember many."""
        known, self._last_prompt = prompt == self._last_prompt, prompt
        return TextReuse(reused=int(known), encoded=int(not known))

    def _seconds(self, stage: Stage, jobs: Sequence[Job]) -> float:
        if stage is Stage.TEXT_ENCODE:
            return self._timing.text_encode
        if stage is Stage.VAE_DECODE:
            return self._timing.vae_decode * len(jobs)
        rows = sum(self.plan(job.request).stage(stage).rows for job in jobs)
        return self._timing.evaluation + self._timing.row * rows

    def _result(self, stage: Stage, job: Job, fault: Fault | None) -> StepResult:
        if fault is not None and fault.kind == "nan":
            return StepResult(failure=NonFinite(f"{stage} produced non-finite numbers"))
        if fault is not None and fault.kind == "error":
            return StepResult(failure=InjectedError(f"injected in {stage}"))
        state: _State = job.state
        state.evaluations[stage] = state.evaluations.get(stage, 0) + 1
        if stage is Stage.TEXT_ENCODE and job.index == 0:
            return StepResult(truncations=_truncations(job.request), text_reuse=self._reuse(job.request.prompt))
        if stage is Stage.VAE_DECODE:
            tiled = fault is not None and fault.kind == "tiled"
            if tiled and FallbackKind.TILED_DECODE not in job.request.allowed_fallbacks:
                return StepResult(failure=OutOfDeviceMemory(f"out of memory in {stage}"))
            if tiled:
                self._adaptations.append(Adaptation(feature=Feature.FULL_DECODE, message="injected"))
            return StepResult(pixels=pixels(job.request, job.seed, job.decode_from), tiled=tiled)
        return StepResult(preview=partial(preview, job.request, job.seed, stage) if job.preview_due else None)


def preview(request: GenerationRequest, seed: int, stage: Stage) -> Pixels:
    """Returns the fake runner's preview: its image at an eighth of the size."""
    small = replace(request, width=max(1, request.width // 8), height=max(1, request.height // 8))
    return pixels(small, seed, stage)


def pixels(request: GenerationRequest, seed: int, decode_from: Stage) -> Pixels:
    """Returns the image that the fake runner makes: a function of prompt, seed, size and the stage shown."""
    key = hashlib.sha256(f"{request.prompt}\0{seed}\0{decode_from}".encode()).digest()
    size = 3 * request.width * request.height
    if "{noise}" in request.prompt:
        data = random.Random(key).randbytes(size)  # noqa: S311 - a picture, not a secret
    else:
        row = bytes((x * key[c] // request.width + key[c + 3]) % 256 for x in range(request.width) for c in range(3))
        data = row * request.height
    return Pixels(width=request.width, height=request.height, data=data)


def _step_plan(stage: Stage, steps: int, order: int, guidance_scale: float) -> StagePlan:
    return StagePlan(stage=stage, steps=steps, evaluations=order * steps - (order - 1), guidance_scale=guidance_scale)


def _due(state: _State, stage: Stage) -> Fault | None:
    done = state.evaluations.get(stage, 0)
    return next((f for f in state.faults if f.stage is stage and f.evaluation == done), None)


def _truncations(request: GenerationRequest) -> tuple[PromptTruncation, ...]:
    words = request.prompt.split()
    cut = words[WORDS_THAT_FIT:]
    if not cut:
        return ()
    return tuple(
        PromptTruncation(
            encoder=encoder,
            stage=Stage.BASE,
            prompt_field="prompt",
            removed_text=" ".join(cut),
            removed_tokens=len(cut),
            max_tokens=WORDS_THAT_FIT + 2,
        )
        for encoder in ("text_encoder", "text_encoder_2")
    )
