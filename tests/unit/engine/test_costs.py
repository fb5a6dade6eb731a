"""What work costs the device, and what the engine expects it to cost."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import pytest

from imagegen_server.core import STEP_STAGES, Job, Stage
from imagegen_server.models.fake.script import FakeTiming
from imagegen_server.warm_up import warm_up_request
from support.simulation import PROFILE, World, make_request


def test_a_refiner_of_its_own_guidance_takes_its_own_rows() -> None:
    """The fake device takes as long as its plan says: two rows where a stage is guided, one where it is not."""
    world = World(timing=FakeTiming(evaluation=0.0, row=1.0, text_encode=0.0, vae_decode=0.0))
    request = make_request("r", num_inference_steps=3, refiner_steps=5, guidance_scale=1.0)
    assert request.refiner is not None
    world.submit(dataclasses.replace(request, refiner=dataclasses.replace(request.refiner, guidance_scale=8.0)))
    world.run()
    assert world.referee.usages["r"].device_seconds == pytest.approx(3 * 1 + 5 * 2)


def test_a_plan_is_free() -> None:
    """Asking for the plan admits nothing and gives the estimate."""
    world = World()
    world.engine.warm_up(make_request("warm-up"))
    accepted = world.engine.plan(make_request("r"))
    assert [p.evaluations for p in accepted.plan.stages] == [1, 10, 5, 1]
    assert accepted.estimated_duration == pytest.approx(0.02 + 15 * 0.014, rel=0.2)
    assert world.engine.queue_state().queued == 0
    assert world.referee.accepted_ids == []


def test_a_warm_up_learns_what_a_step_costs_once_it_is_warm() -> None:
    """Not from the evaluations that pay for what is lazy, and for a graph: a deadline that can be met is accepted."""

    seen: Counter[Stage] = Counter()

    def seconds(stage: Stage, jobs: Sequence[Job]) -> float:
        seen[stage] += 1
        if stage not in STEP_STAGES:
            return 0.01
        return 0.014 + (1.0 if seen[stage] <= 2 else 0.0)

    engine = World(seconds=seconds).engine
    engine.warm_up(dataclasses.replace(warm_up_request(PROFILE), width=64, height=64))
    assert engine.plan(make_request("r")).estimated_duration == pytest.approx(0.02 + 15 * 0.014, rel=0.2)


@pytest.mark.parametrize("isolated", [False, True])
def test_several_images_are_estimated_as_they_run(isolated: bool) -> None:
    """Text is encoded once for all of them, and their steps share batches unless each is to be alone in its own."""
    world = World()
    for name, images in (("one", 1), ("four", 4)):
        world.submit(make_request(name, num_images=images))
        world.run()
    request = make_request("r", num_images=4, isolate_batch=isolated)
    world.submit(request)
    world.run()
    took = world.referee.usages["r"].device_seconds
    assert world.engine.plan(request).estimated_duration == pytest.approx(took, rel=0.05)
