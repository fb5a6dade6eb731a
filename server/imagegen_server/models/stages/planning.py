"""What a request will execute: exact steps and evaluations of both stages, from the schedulers themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from imagegen_server.core import (
    FallbackKind,
    FallbackReason,
    GenerationRequest,
    Plan,
    Precision,
    RefinerMode,
    RefinerSettings,
    Stage,
    StagePlan,
)
from imagegen_server.errors import InvalidRequest, RefinerUnavailable, Violation
from imagegen_server.models.stages.schedule import (
    IndivisibleScheduleError,
    Schedule,
    base_schedule,
    refiner_schedule,
    refiner_total,
)

if TYPE_CHECKING:
    from imagegen_server.models.stages.schedulers import SchedulerFactory

_CACHED_PLANS = 1024


@dataclass(frozen=True, slots=True)
class _Course:
    """The part of a request that decides its schedules: what counts are remembered by."""

    scheduler: str
    steps: int
    refiner: RefinerSettings | None
    """Without what decides no schedule; None without refinement."""

    @property
    def switch_at(self) -> float | None:
        """Where the base hands over in ensemble mode."""
        return self.refiner.switch_at if self.refiner is not None else None


@dataclass(frozen=True, slots=True)
class _Counts:
    """Steps and evaluations of one stage."""

    steps: int
    evaluations: int


class Planner:
    """Makes plans. Thread-safe; remembers the counts of recent combinations."""

    def __init__(
        self, *, precision: Precision, vae_scale_factor: int, base: SchedulerFactory, refiner: SchedulerFactory | None
    ) -> None:
        self._precision = precision
        self._vae_scale_factor = vae_scale_factor
        self._base = base
        self._refiner = refiner
        self._counts = lru_cache(maxsize=_CACHED_PLANS)(self._count)

    def plan(self, request: GenerationRequest) -> Plan:
        """Returns the plan of a request; raises as `Runner.plan` says."""
        settings = request.refiner if request.use_refinement else None
        unplanned = None
        if settings is not None and self._refiner is None:
            if FallbackKind.REFINER_TO_BASE not in request.allowed_fallbacks:
                raise RefinerUnavailable("the refiner is not loaded, and the request does not allow going without it")
            settings, unplanned = None, FallbackReason.NOT_LOADED
        base, refiner = self._counts(_course(request, settings))
        stages = [
            StagePlan(stage=Stage.TEXT_ENCODE, steps=0, evaluations=1, guidance_scale=0.0),
            _stage(Stage.BASE, base, request.guidance_scale),
        ]
        if settings is not None and refiner is not None:
            stages.append(_stage(Stage.REFINER, refiner, settings.guidance_scale))
        stages.append(StagePlan(stage=Stage.VAE_DECODE, steps=0, evaluations=1, guidance_scale=0.0))
        factor = self._vae_scale_factor
        return Plan(
            stages=tuple(stages),
            latent_shape=(request.height // factor, request.width // factor),
            precision=self._precision,
            refiner_mode=settings.mode if settings is not None else None,
            unplanned_fallback=unplanned,
        )

    def _count(self, course: _Course) -> tuple[_Counts, _Counts | None]:
        try:
            base = base_schedule(self._base.prepare(course.scheduler, course.steps), course.steps, course.switch_at)
        except IndivisibleScheduleError as error:
            raise _refused("scheduler", f"{error}; use refiner.mode image_to_image") from None
        except ValueError as error:
            raise _refused(
                "num_inference_steps", f"{course.scheduler} cannot run {course.steps} steps: {error}"
            ) from None
        if not base.evaluations:
            raise _nothing_left("base", course)
        if course.refiner is None or self._refiner is None:
            return _counts(base), None
        return _counts(base), self._count_refiner(course, course.refiner, self._refiner)

    def _count_refiner(self, course: _Course, settings: RefinerSettings, factory: SchedulerFactory) -> _Counts:
        total = _checked_total(settings, course.steps, factory.make(course.scheduler).config.num_train_timesteps)
        try:
            schedule = refiner_schedule(factory.prepare(course.scheduler, total), settings, total)
        except ValueError as error:
            raise _refused("scheduler", f"{course.scheduler} cannot run the refiner's schedule: {error}") from None
        if not schedule.evaluations:
            raise _nothing_left("refiner", course)
        return _counts(schedule)


def _course(request: GenerationRequest, settings: RefinerSettings | None) -> _Course:
    if settings is not None:
        settings = replace(settings, guidance_scale=1.0, aesthetic_score=0.0, negative_aesthetic_score=0.0, prompt="")
    return _Course(request.scheduler, request.num_inference_steps, settings)


def _checked_total(settings: RefinerSettings, base_steps: int, trained: int) -> int:
    """Returns `refiner_total`; refuses a schedule finer than the training's, whose timesteps would repeat."""
    try:
        total = refiner_total(settings, base_steps)
    except ValueError as error:
        raise _refused("refiner.strength", str(error)) from None
    if settings.mode is RefinerMode.IMAGE_TO_IMAGE and total > trained:
        steps, strength = settings.num_inference_steps, settings.strength
        raise _refused(
            "refiner.strength",
            f"{steps} executed steps at strength {strength} need a schedule of {total} steps; "
            f"at most {trained} are possible",
        )
    return total


def _stage(stage: Stage, counts: _Counts, guidance_scale: float) -> StagePlan:
    return StagePlan(stage=stage, steps=counts.steps, evaluations=counts.evaluations, guidance_scale=guidance_scale)


def _counts(schedule: Schedule) -> _Counts:
    return _Counts(schedule.steps, schedule.evaluations)


def _nothing_left(stage: str, course: _Course) -> InvalidRequest:
    return _refused(
        "refiner.switch_at",
        f"{course.switch_at} leaves the {stage} no step of {course.steps} with {course.scheduler}",
    )


def _refused(field: str, description: str) -> InvalidRequest:
    return InvalidRequest((Violation(field=field, description=description),))
