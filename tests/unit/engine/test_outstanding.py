"""A device that runs behind the host: its time is booked on the turn that took it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from imagegen_server.core import STEP_STAGES, GenerationRequest, Job, Outcome, Stage, StepResult
from imagegen_server.engine import EngineSettings
from imagegen_server.engine.events import Accepted
from imagegen_server.errors import Cancelled, DeadlineExceeded, DeviceLost
from support.behind import LAUNCH_SECONDS, LOOK_EVERY, BehindRunner
from support.simulation import World, make_request

STEP = {8: 0.010, 32: 0.200}
"""Seconds of an evaluation, by the latent's height."""


def world(device: type[BehindRunner] = BehindRunner) -> World:
    return World(
        EngineSettings(native_area=64),
        seconds=lambda stage, jobs: STEP[jobs[0].request.height // 8] if stage in STEP_STAGES else 0.02,
        device=device,
    )


def small(name: str, **changes: Any) -> GenerationRequest:
    return make_request(name, **{"num_inference_steps": 20, "use_refinement": False} | changes)


def large(name: str, **changes: Any) -> GenerationRequest:
    return small(name, height=256, width=256, **changes)


def booked(world: World) -> dict[str, float]:
    """Returns the device seconds that each generation was told it took."""
    return {name: usage.device_seconds for name, usage in world.referee.usages.items()}


def truly(world: World) -> dict[str, float]:
    """Returns the seconds that the device spent on each."""
    assert isinstance(world.runner, BehindRunner)
    spent: dict[str, float] = defaultdict(float)
    for (name, _), seconds in world.runner.busy.items():
        spent[name] += seconds
    return spent


def test_a_warm_up_learns_what_an_evaluation_takes() -> None:
    """Neither twice as much, for a step that waits for itself and the one before, nor what the one before took."""
    warm = world()
    warm.engine.warm_up(large("warm", num_inference_steps=3))
    warm.submit(large("r"))
    warm.run()
    accepted = warm.seen["r"][0].event
    assert isinstance(accepted, Accepted)
    assert accepted.estimated_duration == pytest.approx(20 * STEP[32] + 2 * 0.02, rel=0.01)


@pytest.mark.parametrize("steps", [LOOK_EVERY, 20, 21])
def test_sizes_that_take_turns_are_each_charged_what_they_took(steps: int) -> None:
    """Though a step returns when the other size's evaluation has ended."""
    both = world()
    both.submit(small("small", num_inference_steps=20 * steps, tenant="a"))
    both.submit(large("large", num_inference_steps=steps, tenant="b"))
    both.run()
    both.check_balance()
    turns = [jobs[0].request.request_id for stage, jobs in both.runner.batches if stage is Stage.BASE]
    assert sum(one != other for one, other in pairwise(turns)) >= steps
    for name, seconds in truly(both).items():
        assert booked(both)[name] == pytest.approx(seconds, rel=0.05)


def test_a_stopped_generation_is_not_charged_to_the_next() -> None:
    """The evaluation that the device was at when its caller left is waste, and told."""
    alone = world()
    ticket = alone.submit(large("left"))
    for _ in range(4):
        alone.engine.turn()
    ticket.close(Cancelled("left"))
    while alone.engine.turn():
        pass
    assert alone.referee.outcomes["left"] == [Outcome.CANCELLED]
    assert alone.referee.wasted_seconds == pytest.approx(truly(alone)["left"], abs=5 * LAUNCH_SECONDS)
    alone.clock.sleep(10)
    alone.submit(small("next"))
    alone.run()
    assert booked(alone)["next"] == pytest.approx(truly(alone)["next"], rel=0.1)


def test_what_can_be_done_in_time_is_not_refused() -> None:
    """The estimate is that of the device's evaluations."""
    fresh = world()
    fresh.engine.warm_up(large("warm", num_inference_steps=3))
    needed = 20 * STEP[32] + 2 * 0.02
    fresh.submit(large("r"), deadline=1.05 * needed)
    fresh.run()
    assert fresh.referee.outcomes["r"] == [Outcome.OK]
    with pytest.raises(DeadlineExceeded):
        fresh.submit(large("s"), deadline=0.95 * needed)


def test_a_lost_device_is_not_waited_for() -> None:
    """It would not answer, or answer with another error; the runner is closed, and its callers are told."""
    lost = world()
    closed: list[bool] = []

    def settle() -> None:
        raise RuntimeError("CUDA error: device lost")

    lost.submit(small("r", prompt="{base:lost@5}"))
    assert isinstance(lost.runner, BehindRunner)
    for _ in range(6):
        lost.engine.turn()
    assert lost.runner.ahead()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lost.runner, "settle", settle)
        patch.setattr(lost.runner, "close", lambda: closed.append(True))
        with pytest.raises(DeviceLost):
            lost.engine.run_forever()
    assert closed == [True]
    assert lost.referee.outcomes["r"] == [Outcome.ERROR]


def test_what_a_size_pays_once_is_its_own() -> None:
    """The host's work for a graph, say, is not booked on the turn that the device is at meanwhile."""

    class Capturing(BehindRunner):
        """Takes the host half a second for each of the first two evaluations of a size."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.met: Counter[int] = Counter()

        def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
            height = jobs[0].request.height
            if stage is Stage.BASE and self.met[height] < 2:
                self.met[height] += 1
                self._clock.sleep(0.5)
            return super().step(stage, jobs)

    both = world(device=Capturing)
    both.submit(large("large", num_inference_steps=20, tenant="b"))
    for _ in range(5):
        both.engine.turn()
    both.submit(small("small", num_inference_steps=20, tenant="a"))
    both.run()
    spent = truly(both)
    assert booked(both)["large"] == pytest.approx(spent["large"] + 1.0, rel=0.03)
    assert booked(both)["small"] == pytest.approx(spent["small"] + 1.0, abs=0.2)  # some turns are divided by estimate


def test_failures_wait_for_the_device() -> None:
    """A batch that fails as a whole ends the turn before it, and everything still balances."""
    faulty = world()
    faulty.submit(small("good"))
    faulty.submit(small("bad", prompt="{base:oom@3}"))
    faulty.run()
    faulty.check_balance()
    assert faulty.referee.outcomes["good"] == [Outcome.OK]
    assert faulty.referee.outcomes["bad"] == [Outcome.ERROR]
