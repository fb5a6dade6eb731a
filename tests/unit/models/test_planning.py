"""Plans: exact steps and evaluations, and combinations that are refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from imagegen_server import core
from imagegen_server.errors import InvalidRequest, NotFound, RefinerUnavailable
from imagegen_server.models.stages.planning import Planner
from imagegen_server.models.stages.schedulers import SchedulerFactory
from support.pairs import ensemble, image_to_image, request, scheduler_config

CONFIG = scheduler_config(timestep_spacing="leading", steps_offset=1)


@pytest.fixture(scope="module")
def factory() -> SchedulerFactory:
    return SchedulerFactory(CONFIG)


@pytest.fixture(scope="module")
def planner(factory: SchedulerFactory) -> Planner:
    return Planner(precision=core.Precision.FP32, vae_scale_factor=8, base=factory, refiner=factory)


@pytest.fixture(scope="module")
def base_only(factory: SchedulerFactory) -> Planner:
    return Planner(precision=core.Precision.FP32, vae_scale_factor=8, base=factory, refiner=None)


def counts(plan: core.Plan) -> dict[core.Stage, tuple[int, int]]:
    return {stage.stage: (stage.steps, stage.evaluations) for stage in plan.stages}


def test_the_defaults_plan_fifty_and_thirty_steps(planner: Planner) -> None:
    """Fifty base steps and thirty executed refiner steps, between the text and the decoding."""
    settings = image_to_image(num_inference_steps=30, strength=0.3)
    plan = planner.plan(request(num_inference_steps=50, refiner=settings, width=1024, height=768))
    assert counts(plan) == {
        core.Stage.TEXT_ENCODE: (0, 1),
        core.Stage.BASE: (50, 50),
        core.Stage.REFINER: (30, 30),
        core.Stage.VAE_DECODE: (0, 1),
    }
    assert plan.latent_shape == (96, 128)
    assert plan.refiner_mode is core.RefinerMode.IMAGE_TO_IMAGE
    assert plan.unplanned_fallback is None


def test_without_refinement_there_is_no_refiner_stage(planner: Planner) -> None:
    """The plan goes from the base to the decoding and names no refiner mode."""
    plan = planner.plan(request(refiner=None))
    assert [stage.stage for stage in plan.stages] == [
        core.Stage.TEXT_ENCODE,
        core.Stage.BASE,
        core.Stage.VAE_DECODE,
    ]
    assert plan.refiner_mode is None


def test_ensemble_divides_the_steps(planner: Planner) -> None:
    """At 0.8 the base executes four fifths of the steps and the refiner the rest."""
    plan = planner.plan(request(num_inference_steps=50, refiner=ensemble(0.8)))
    assert counts(plan)[core.Stage.BASE] == (40, 40)
    assert counts(plan)[core.Stage.REFINER] == (10, 10)


def test_a_second_order_scheduler_evaluates_twice(planner: Planner) -> None:
    """Heun's steps are the caller's, its evaluations one less than twice as many."""
    settings = image_to_image(num_inference_steps=10, strength=0.5)
    plan = planner.plan(request(num_inference_steps=20, scheduler="HeunDiscreteScheduler", refiner=settings))
    assert counts(plan)[core.Stage.BASE] == (20, 39)
    assert counts(plan)[core.Stage.REFINER] == (10, 19)


def test_each_stage_has_its_own_rows(planner: Planner) -> None:
    """A guided stage takes two rows, an unguided one a single row."""
    plan = planner.plan(request(guidance_scale=1.0, refiner=image_to_image(guidance_scale=5.0)))
    assert (plan.stage(core.Stage.BASE).rows, plan.stage(core.Stage.REFINER).rows) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_inference_steps": 20, "refiner": ensemble(0.9999)}, "refiner.switch_at"),
        ({"num_inference_steps": 20, "refiner": ensemble(0.0001)}, "refiner.switch_at"),
        ({"refiner": image_to_image(num_inference_steps=30, strength=0.001)}, "refiner.strength"),
        ({"refiner": image_to_image(num_inference_steps=1, strength=5e-324)}, "refiner.strength"),
        ({"scheduler": "DDIMScheduler", "num_inference_steps": 1001, "refiner": None}, "num_inference_steps"),
    ],
)
def test_what_leaves_a_stage_without_steps_is_refused(planner: Planner, changes: dict[str, object], field: str) -> None:
    """The refusal names the field that has to change."""
    with pytest.raises(InvalidRequest) as caught:
        planner.plan(request(**changes))
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("trained", [1000, 600])
def test_a_schedule_may_be_as_fine_as_the_training(trained: int) -> None:
    """Which the model's configuration tells; one that is finer would run some timesteps twice, and is refused."""
    factory = SchedulerFactory(scheduler_config(num_train_timesteps=trained))
    planner = Planner(precision=core.Precision.FP32, vae_scale_factor=8, base=factory, refiner=factory)
    steps = trained // 20
    plan = planner.plan(request(refiner=image_to_image(num_inference_steps=steps, strength=0.05)))
    assert plan.stage(core.Stage.REFINER).steps == steps
    with pytest.raises(InvalidRequest) as caught:
        planner.plan(request(refiner=image_to_image(num_inference_steps=steps + 1, strength=0.05)))
    (violation,) = caught.value.violations
    assert violation.field == "refiner.strength"
    assert f"a schedule of {trained + 20} steps; at most {trained} are possible" in violation.description


def test_a_schedule_that_cannot_be_divided_is_refused() -> None:
    """In ensemble mode, by the scheduler's name; where each stage has its own schedule it can be planned."""
    factory = SchedulerFactory({"_class_name": "EDMEulerScheduler"})
    planner = Planner(precision=core.Precision.FP32, vae_scale_factor=8, base=factory, refiner=factory)
    with pytest.raises(InvalidRequest) as caught:
        planner.plan(request(scheduler="EDMEulerScheduler", refiner=ensemble(0.8)))
    assert [violation.field for violation in caught.value.violations] == ["scheduler"]
    planner.plan(request(scheduler="EDMEulerScheduler", refiner=image_to_image(num_inference_steps=3, strength=0.3)))


def test_an_unknown_scheduler_is_not_found(planner: Planner) -> None:
    """The plan fails before anything else is looked at."""
    with pytest.raises(NotFound):
        planner.plan(request(scheduler="TurboScheduler", refiner=None))


def test_a_missing_refiner_is_an_unplanned_fallback(base_only: Planner) -> None:
    """Where the request allows it the base runs alone, on its whole schedule even in ensemble mode."""
    plan = base_only.plan(request(num_inference_steps=10, refiner=ensemble(0.5)))
    assert plan.unplanned_fallback is core.FallbackReason.NOT_LOADED
    assert plan.refiner_mode is None
    assert counts(plan)[core.Stage.BASE] == (10, 10)
    assert core.Stage.REFINER not in counts(plan)


def test_a_missing_refiner_that_is_required_fails(base_only: Planner) -> None:
    """Without the permission to fall back the request cannot be run."""
    with pytest.raises(RefinerUnavailable):
        base_only.plan(request(allowed_fallbacks=frozenset()))
    assert base_only.plan(request(allowed_fallbacks=frozenset(), refiner=None)).unplanned_fallback is None


def test_plans_may_be_made_in_many_threads(planner: Planner) -> None:
    """Concurrent plans of the same and of different requests agree with plans made one after the other."""
    names = ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverSinglestepScheduler", "PNDMScheduler"]
    requests = [request(num_inference_steps=20 + i % 7, scheduler=names[i % 4]) for i in range(64)]
    expected = [planner.plan(each) for each in requests]
    fresh = Planner(
        precision=core.Precision.FP32,
        vae_scale_factor=8,
        base=SchedulerFactory(CONFIG),
        refiner=SchedulerFactory(CONFIG),
    )
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.plan, requests)) == expected
