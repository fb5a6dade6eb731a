"""What work costs the device, and what the engine expects it to cost."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from imagegen_server.core import STEP_STAGES, Feature, Job, Stage, StepResult, TextReuse
from imagegen_server.engine import EngineSettings
from imagegen_server.errors import NonFinite, OutOfDeviceMemory
from imagegen_server.models.fake.script import FakeTiming
from imagegen_server.warm_up import warm_up_request
from support.behind import BehindRunner
from support.ends import finished
from support.simulation import PROFILE, WatchedRunner, World, make_request


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


def test_a_warm_up_that_fails_says_why_and_holds_nothing() -> None:
    """The start ends with what the model failed with."""
    world = World()
    with pytest.raises(NonFinite):
        world.engine.warm_up(make_request("warm-up", prompt="{base:nan@3}"))
    assert world.runner.held == set()


def test_what_a_warm_up_gives_up_is_told_at_once() -> None:
    """Not only with the first request, which may be long in coming."""
    world = World()
    world.engine.warm_up(make_request("warm-up", prompt="{vae_decode:tiled}"))
    assert [adaptation.feature for adaptation in world.referee.adaptations] == [Feature.FULL_DECODE]


def test_a_turn_that_fails_teaches_nothing() -> None:
    """How long it took until memory ran out is not what an evaluation takes, and no batch was executed."""
    slow = (Stage.BASE, "{base:oom}")
    world = World(seconds=lambda stage, jobs: 5.0 if (stage, jobs[0].request.prompt) == slow else 0.01)
    world.submit(make_request("learned"))
    world.run()
    before = world.engine.plan(make_request("r")).estimated_duration
    world.referee.batches.clear()
    world.submit(make_request("bad", prompt=slow[1]))
    world.run()
    assert isinstance(finished(world, "bad").error, OutOfDeviceMemory)
    assert [stage for stage, _, _ in world.referee.batches] == [Stage.TEXT_ENCODE]
    assert world.engine.plan(make_request("r")).estimated_duration == before


def test_a_batch_is_told_with_its_rows_and_its_jobs() -> None:
    """A guided job takes two rows, another one."""
    world = World()
    world.submit(make_request("guided"))
    world.submit(make_request("plain", guidance_scale=1.0))
    world.run()
    assert (Stage.BASE, 3, 2) in world.referee.batches


@pytest.mark.parametrize("waiting", [0, 20])
def test_those_who_wait_make_a_small_gain_worth_a_batch(waiting: int) -> None:
    """Two that have the device to themselves take turns where they gain little; with a queue behind them they share."""
    timing = FakeTiming(evaluation=0.004, row=0.01, text_encode=0.01, vae_decode=0.01)
    world = World(EngineSettings(native_area=64, max_running=2), timing)
    for names in (("alone",), ("a", "b")):
        for name in names:
            world.submit(make_request(name, use_refinement=False))
        world.run()
    world.clock.sleep(1000)  # so that nothing says that more will come
    world.referee.batches.clear()
    for number in range(2 + waiting):
        world.submit(make_request(f"r{number}", use_refinement=False))
    for _ in range(2 + 5):
        world.engine.turn()
    evaluations = [evaluations for stage, _, evaluations in world.referee.batches if stage is Stage.BASE]
    assert evaluations == [2 if waiting else 1] * 5


def test_a_model_that_is_on_the_device_stays_while_that_pays() -> None:
    """Where they swap, those that come one after the other change it about as often as there are generations."""
    world = World(EngineSettings(native_area=64, switch_seconds=1.0))
    for number in range(6):
        world.submit(make_request(f"r{number}", num_inference_steps=10 + number))
        for _ in range(4):
            world.engine.turn()
    world.run()
    stages = [stage for stage, _ in world.runner.batches if stage in STEP_STAGES]
    assert sum(one is not other for one, other in pairwise(stages)) <= 6


def test_texts_that_are_remembered_are_told() -> None:
    """Once for a generation, whatever its number of images."""
    world = World()
    for name in ("new", "again"):
        world.submit(make_request(name, num_images=2))
        world.run()
    assert world.referee.reuses == [TextReuse(reused=0, encoded=1), TextReuse(reused=1, encoded=0)]


@pytest.mark.parametrize("device", [WatchedRunner, BehindRunner])
def test_energy_is_divided_as_time_is(device: type[WatchedRunner]) -> None:
    """By the rows of each generation in a batch, also where a turn's end is seen with the next one only."""
    world = World(device=device, energy=lambda now: 100.0 * now)
    world.submit(make_request("one"))
    world.submit(make_request("three", num_images=3))
    world.run()
    for usage in world.referee.usages.values():
        assert usage.energy_joules == pytest.approx(100.0 * usage.device_seconds)


def test_energy_of_which_a_part_is_unknown_is_unknown() -> None:
    """A generation that began before the first reading has none; the next one has."""
    world = World(energy=lambda now: None if now < 1000.05 else 100.0 * now)
    for name in ("early", "late"):
        world.submit(make_request(name))
        world.run()
    assert world.referee.usages["early"].energy_joules is None
    assert world.referee.usages["late"].energy_joules == pytest.approx(
        100.0 * world.referee.usages["late"].device_seconds
    )


def test_energy_is_never_given_back() -> None:
    """A counter that begins anew falls: what was used meanwhile is not known, and not negative."""
    world = World(energy=lambda now: -now)
    world.submit(make_request("r"))
    world.run()
    assert world.referee.usages["r"].energy_joules == 0.0


class Growing(WatchedRunner):
    """Reports a byte for each job that it holds."""

    _peak = 0

    def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        """Runs it."""
        results = super().step(stage, jobs)
        self._peak = max(self._peak, len(self.held))
        return results

    def peak_memory_bytes(self) -> int | None:
        """See the protocol."""
        return self._peak

    def reset_peak_memory(self) -> None:
        """See the protocol."""
        self._peak = 0


def test_a_peak_of_memory_is_that_of_the_time_on_the_device() -> None:
    """Neither what was in use before a generation began, nor only what was in use when it ended."""
    world = World(device=Growing)
    world.submit(make_request("first", num_images=4))
    world.engine.turn()
    while len(world.runner.held) > 1:
        world.engine.turn()
    world.submit(make_request("second"))
    world.run()
    peaks = {name: usage.peak_memory_bytes for name, usage in world.referee.usages.items()}
    assert peaks == {"first": 4, "second": 2}
