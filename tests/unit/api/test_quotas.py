"""What tenants may have in flight and use: charges, refunds, and what is told to those who are refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest

from imagegen_server.api import Quotas, TenantLimits
from imagegen_server.api.auth import ANONYMOUS, Caller
from imagegen_server.core import GenerationRequest, Plan, Precision, Stage
from imagegen_server.errors import QuotaExceeded
from support.generations import REQUEST
from support.scripted_engine import stage_plan

PLAN = Plan(
    stages=(stage_plan(Stage.TEXT_ENCODE), stage_plan(Stage.BASE, 20, 8.0), stage_plan(Stage.REFINER, 10, 8.0)),
    latent_shape=(16, 16),
    precision=Precision.FP32,
    refiner_mode=None,
)


@dataclass
class Scene:
    """Quotas with a clock, and what a tenant does with them."""

    limits: TenantLimits
    now: float = 100.0
    defaults: TenantLimits = field(default_factory=TenantLimits)

    def __post_init__(self) -> None:
        self.quotas = Quotas(self.defaults, clock=lambda: self.now)

    def begin(self, tenant: str = "alice", images: int = 1) -> GenerationRequest:
        """Begins a generation of 30 steps an image."""
        self.quotas.check(Caller(tenant=tenant, limits=self.limits))
        generation = dataclasses.replace(REQUEST, tenant=tenant, num_images=images)
        self.quotas.accepted(generation, PLAN)
        return generation

    def refusal(self, tenant: str = "alice") -> QuotaExceeded:
        """Returns why a generation is refused."""
        with pytest.raises(QuotaExceeded) as caught:
            self.quotas.check(Caller(tenant=tenant, limits=self.limits))
        return caught.value

    def end(self, generation: GenerationRequest, executed: int) -> None:
        """Ends a generation after some steps."""
        self.quotas.steps_executed(generation, executed)
        self.quotas.ended(generation)


def test_generations_in_flight_are_bounded() -> None:
    """Another begins when one has ended; others' are not counted."""
    scene = Scene(TenantLimits(max_in_flight=2))
    first, _ = scene.begin(), scene.begin()
    refusal = scene.refusal()
    assert (refusal.reason, refusal.retry_after) == ("TENANT_CONCURRENCY", 1.0)
    scene.begin("bob")
    scene.end(first, 30)
    scene.begin()
    assert scene.refusal()


def test_steps_are_bounded_in_the_long_run() -> None:
    """The bucket may go into debt once; the debt is then waited for, exactly as long as is told."""
    scene = Scene(TenantLimits(steps_per_minute=60, burst_steps=40))
    for _ in range(2):
        scene.end(scene.begin(), 30)  # 40, 10, -20
    refusal = scene.refusal()
    assert refusal.reason == "TENANT_STEP_RATE"
    assert refusal.retry_after == pytest.approx(21.0)
    scene.now += refusal.retry_after - 1.5
    assert scene.refusal().retry_after == pytest.approx(1.5)
    scene.now += 1.5
    scene.end(scene.begin(images=4), 120)
    assert scene.refusal().retry_after == pytest.approx(120.0)
    scene.now += 3600
    executed = 0
    while True:  # no more than the burst, and one into debt
        try:
            scene.end(scene.begin(), 30)
        except QuotaExceeded:
            break
        executed += 30
    assert executed == 60


def test_a_generation_is_charged_for_when_it_begins() -> None:
    """For all of its images, not as they are made: whoever comes meanwhile finds the debt."""
    scene = Scene(TenantLimits(steps_per_minute=60, burst_steps=40))
    scene.begin(images=4)
    assert scene.refusal().retry_after == pytest.approx(81.0)


def test_what_was_not_executed_is_given_back() -> None:
    """All of it before the first step, the rest after some; never more than a full bucket."""
    scene = Scene(TenantLimits(steps_per_minute=60, burst_steps=30))
    scene.end(scene.begin(), 0)
    scene.end(scene.begin(), 0)
    stopped = scene.begin()
    assert scene.refusal()
    scene.end(stopped, 12)
    last = scene.begin()  # 18 were left: debt of 12
    assert scene.refusal().retry_after == pytest.approx(13.0)
    scene.now += 1000
    scene.end(last, 0)
    scene.end(scene.begin(), 30)
    assert scene.refusal()


def test_a_refusal_costs_nothing() -> None:
    """However many there are, the next moment is as if there had been none."""
    scene = Scene(TenantLimits(steps_per_minute=60, burst_steps=1, max_in_flight=1))
    generation = scene.begin()
    before = scene.refusal().retry_after
    for _ in range(1000):
        scene.refusal()
    assert scene.refusal().retry_after == before
    scene.end(generation, 30)
    scene.now += 30
    scene.begin()


def test_limits_may_change_and_have_defaults() -> None:
    """New limits hold from the next call on; where a tenant has none the default's do; without any there is no end."""
    scene = Scene(TenantLimits(max_in_flight=1), defaults=TenantLimits(max_in_flight=5, steps_per_minute=60))
    scene.begin()
    assert scene.refusal().reason == "TENANT_CONCURRENCY"
    scene.limits = TenantLimits(max_in_flight=9)
    scene.begin()
    assert scene.refusal().reason == "TENANT_STEP_RATE"
    scene.limits = TenantLimits(max_in_flight=9, steps_per_minute=1e9)
    scene.now += 1
    scene.begin()
    free = Scene(TenantLimits())
    for _ in range(100):
        free.begin()
    for _ in range(100):
        free.quotas.check(ANONYMOUS)
    assert [scene.quotas.max_in_flight(caller) for caller in (ANONYMOUS, Caller(tenant="bob"))] == [None, 5]


def test_tenants_that_use_nothing_are_forgotten() -> None:
    """Tokens may name any number of them."""
    scene = Scene(TenantLimits(steps_per_minute=60))
    busy = scene.begin("busy")
    for number in range(5_000):
        scene.end(scene.begin(f"t{number}"), 0)
    assert len(scene.quotas._accounts) <= 4096
    scene.end(busy, 30)
