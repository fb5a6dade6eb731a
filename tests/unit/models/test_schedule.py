"""The cut of a scheduler's timesteps, against the counts that diffusers' own pipelines report."""

from __future__ import annotations

import pytest
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler
from hypothesis import given
from hypothesis import strategies as st

from imagegen_server import core
from imagegen_server.models.stages.schedule import (
    IndivisibleScheduleError,
    base_schedule,
    image_to_image_steps,
    refiner_schedule,
    refiner_total,
)
from imagegen_server.models.stages.schedulers import SchedulerFactory
from support.pairs import ensemble, image_to_image, scheduler_config

CONFIG = scheduler_config(timestep_spacing="leading", steps_offset=1) | {"skip_prk_steps": True}


@pytest.fixture(scope="module")
def factory() -> SchedulerFactory:
    return SchedulerFactory(CONFIG)


@given(executed=st.integers(1, 100), strength=st.floats(0.01, 1.0))
def test_image_to_image_steps_is_the_smallest_schedule_that_executes_the_steps(executed: int, strength: float) -> None:
    """The result executes exactly the steps in diffusers' arithmetic and no smaller number does."""
    settings = image_to_image(num_inference_steps=executed, strength=strength)
    total = image_to_image_steps(settings)
    assert min(int(total * strength), total) == executed
    assert min(int((total - 1) * strength), total - 1) < executed


@pytest.mark.parametrize(
    ("executed", "strength", "total"), [(30, 0.3, 100), (30, 1.0, 30), (1, 0.07, 15), (3, 0.1, 30), (7, 0.7, 10)]
)
def test_image_to_image_steps_at_well_known_strengths(executed: int, strength: float, total: int) -> None:
    """Decimal strengths give the schedules one expects, in spite of their binary fractions."""
    settings = image_to_image(num_inference_steps=executed, strength=strength)
    assert abs(image_to_image_steps(settings) - total) <= 1
    assert int(image_to_image_steps(settings) * strength) == executed


@pytest.mark.parametrize(("executed", "strength"), [(1, 5e-324), (30, 1e-320)])
def test_image_to_image_steps_reports_what_no_schedule_executes(executed: int, strength: float) -> None:
    """Steps at a strength of nearly nothing have no schedule."""
    with pytest.raises(ValueError, match=f"no schedule executes {executed} steps"):
        image_to_image_steps(image_to_image(num_inference_steps=executed, strength=strength))


def test_ensemble_divides_a_schedule_without_gap_or_overlap(factory: SchedulerFactory) -> None:
    """Base and refiner of a first-order scheduler together run the whole schedule, in order."""
    whole = base_schedule(factory.prepare("EulerDiscreteScheduler", 20), 20, None).timesteps.tolist()
    base = base_schedule(factory.prepare("EulerDiscreteScheduler", 20), 20, 0.8).timesteps.tolist()
    refiner = refiner_schedule(factory.prepare("EulerDiscreteScheduler", 20), ensemble(0.8), 20).timesteps.tolist()
    assert base + refiner == whole
    assert len(base) == 16


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
def test_steps_count_what_the_caller_asked_for(factory: SchedulerFactory, name: str) -> None:
    """Twelve steps are twelve, though a second-order scheduler evaluates 23 times and PNDM 13 times."""
    schedule = base_schedule(factory.prepare(name, 12), 12, None)
    evaluations = {"EulerDiscreteScheduler": 12, "HeunDiscreteScheduler": 23, "PNDMScheduler": 13}[name]
    assert (schedule.steps, schedule.evaluations) == (12, evaluations)


@pytest.mark.parametrize("scheduler_class", [EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler])
def test_image_to_image_executes_the_refiner_steps(factory: SchedulerFactory, scheduler_class: type) -> None:
    """The refiner executes the steps of its settings, whatever the strength makes of the schedule."""
    settings = image_to_image(num_inference_steps=6, strength=0.35)
    total = refiner_total(settings, 50)
    schedule = refiner_schedule(factory.prepare(scheduler_class.__name__, total), settings, total)
    assert schedule.steps == 6


def test_a_schedule_of_noise_levels_cannot_be_divided() -> None:
    """EDM's timesteps are no training timesteps: diffusers would give the base none and the refiner all of them."""
    factory = SchedulerFactory({"_class_name": "EDMEulerScheduler"})
    with pytest.raises(IndivisibleScheduleError, match="EDMEulerScheduler"):
        base_schedule(factory.prepare("EDMEulerScheduler", 10), 10, 0.8)


def test_modes_are_told_apart_by_the_settings() -> None:
    """Image-to-image needs its own steps and strength; ensemble settings have neither."""
    assert ensemble(0.5).mode is core.RefinerMode.ENSEMBLE
    with pytest.raises(ValueError, match="needs num_inference_steps and strength"):
        image_to_image_steps(ensemble(0.5))
