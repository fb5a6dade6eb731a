"""A fault of the model: a fallback where one is allowed, else the end of the generation whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from imagegen_server.core import STEP_STAGES, FallbackKind, FallbackReason, Job, Outcome, Stage, StepResult
from imagegen_server.engine import FallbackTaken, ImageReady
from imagegen_server.errors import NonFinite, OutOfDeviceMemory, RefinerUnavailable
from imagegen_server.models.fake.script import InjectedError
from support.ends import NO_FALLBACK, finished
from support.simulation import WatchedRunner, World, make_request


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("oom", FallbackReason.OOM), ("nan", FallbackReason.NAN), ("error", FallbackReason.ERROR)],
)
def test_a_refiner_fault_shows_the_base_and_says_so(fault: str, reason: FallbackReason) -> None:
    """Event, result, observer and outcome agree, and the image is the base's."""
    world = World()
    world.submit(make_request("r", prompt=f"a circle {{refiner:{fault}@2}}"))
    world.run()
    world.check_balance()
    events = [e.event for e in world.seen["r"]]
    taken = [e for e in events if isinstance(e, FallbackTaken)]
    assert [t.reason for t in taken] == [reason]
    assert finished(world, "r").fallbacks == tuple(taken)
    assert [e.refined for e in events if isinstance(e, ImageReady)] == [False]
    assert world.referee.fallbacks == {"r": 1}
    assert world.referee.outcomes == {"r": [Outcome.DEGRADED]}
    assert world.runner.evaluations["r", 0, Stage.REFINER] == 2
    assert world.referee.ends["r", Stage.REFINER, Outcome.ERROR] == 1
    assert {timing.stage: timing.steps for timing in finished(world, "r").stage_timings}[Stage.REFINER] == 2
    assert world.referee.usages["r"].wasted_device_seconds == pytest.approx(3 * 0.014), "the refiner's alone"


@pytest.mark.parametrize(("fault", "error"), [("oom", OutOfDeviceMemory), ("nan", NonFinite), ("error", InjectedError)])
@pytest.mark.parametrize("stage", [Stage.TEXT_ENCODE, Stage.BASE, Stage.VAE_DECODE])
def test_a_fault_elsewhere_ends_the_generation(stage: Stage, fault: str, error: type[Exception]) -> None:
    """Without a fallback for the stage the caller gets the error itself, and everything is released."""
    world = World()
    world.submit(make_request("r", prompt=f"a circle {{{stage}:{fault}}}", num_images=2))
    world.run()
    world.check_balance()
    assert isinstance(finished(world, "r").error, error)
    assert world.referee.outcomes == {"r": [Outcome.ERROR]}


def test_a_refiner_fault_without_permission_ends_the_generation() -> None:
    """An empty policy accepts no fallback."""
    world = World()
    world.submit(make_request("r", prompt="{refiner:nan}", allowed_fallbacks=NO_FALLBACK))
    world.run()
    assert isinstance(finished(world, "r").error, NonFinite)
    assert not world.referee.fallbacks


def test_one_poisoned_request_harms_no_stranger() -> None:
    """A batch that fails as a whole is taken apart: only the cause fails, and later batches are smaller."""
    world = World()
    for number in range(7):
        world.submit(make_request(f"r{number}"))
    world.submit(make_request("bad", prompt="{base:oom@4}"))
    world.run()
    world.check_balance()
    assert isinstance(finished(world, "bad").error, OutOfDeviceMemory)
    assert all(world.referee.outcomes[f"r{number}"] == [Outcome.OK] for number in range(7))
    sizes = [len(jobs) for stage, jobs in world.runner.batches if stage is Stage.BASE]
    assert world.referee.caps == [(Stage.BASE, 8)]
    assert (sizes[:5], sizes[5:13], set(sizes[13:])) == ([8] * 5, [1] * 8, {4, 3})


def test_images_that_fit_only_alone_stay_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two unguided images are two rows: once two did not fit, others are not put together either."""
    world = World()
    step, refused = world.runner.step, []

    def small_device(stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        if stage is Stage.BASE and len(jobs) > 1:
            refused.append(len(jobs))
            raise OutOfDeviceMemory("the device ran out of memory in base")
        return step(stage, jobs)

    monkeypatch.setattr(world.runner, "step", small_device)
    for names in (("r", "s"), ("t", "u")):
        for name in names:
            world.submit(make_request(name, guidance_scale=1.0))
        world.run()
    assert world.referee.outcomes == {name: [Outcome.OK] for name in ("r", "s", "t", "u")}
    assert refused == [2]


class Flaky(WatchedRunner):
    """Fails once, when two batches of several jobs have made a step."""

    failed = False

    def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        """Runs it, or does not."""
        stepped = [ran for ran, together in self.batches if ran is Stage.BASE and len(together) > 1]
        if not self.failed and len(stepped) == 2 and len(jobs) > 1:
            self.failed = True
            raise RuntimeError("a kernel failed")
        return super().step(stage, jobs)


def test_a_batch_that_fails_for_another_reason_is_as_large_again() -> None:
    """Only memory that ran out says that fewer rows would fit; once it is known whose fault it was, all share again."""
    world = World(device=Flaky)
    for number in range(4):
        world.submit(make_request(f"r{number}"))
    world.run()
    world.check_balance()
    assert [len(jobs) for stage, jobs in world.runner.batches if stage is Stage.BASE] == [4, 4, 1, 1, 1, 1, *[4] * 7]
    assert world.referee.caps == []


def test_a_batch_that_failed_does_not_keep_another_tenant_waiting() -> None:
    """To find out whose fault it was is its tenant's own time: the one that is behind is served in between."""
    world = World(device=Flaky)
    for number in range(4):
        world.submit(make_request(f"a{number}", tenant="a"))
    world.submit(make_request("b", tenant="b", width=128, num_inference_steps=40))
    world.run()
    world.check_balance()
    steps = [jobs for stage, jobs in world.runner.batches if stage in STEP_STAGES]
    turns = ["".join(job.request.tenant for job in jobs) for jobs in steps]
    alone = [index for index, turn in enumerate(turns) if turn == "a"]
    assert len(alone) == 4
    assert all(later - earlier > 1 for earlier, later in pairwise(alone))


def test_a_decode_in_tiles_is_declared() -> None:
    """To its caller and to the operator; the image is the refiner's all the same."""
    world = World()
    world.submit(make_request("r", prompt="{vae_decode:tiled}"))
    world.run()
    world.check_balance()
    (taken,) = finished(world, "r").fallbacks
    assert (taken.kind, taken.reason, taken.image_index) == (FallbackKind.TILED_DECODE, FallbackReason.OOM, 0)
    assert [e.event.refined for e in world.seen["r"] if isinstance(e.event, ImageReady)] == [True]
    assert world.referee.fallbacks == {"r": 1}
    assert world.referee.outcomes == {"r": [Outcome.DEGRADED]}


def test_a_decode_without_pixels_ends_the_generation() -> None:
    """A runner that breaks its word costs the one caller, not the server."""

    class Empty(WatchedRunner):
        """Decodes nothing."""

        def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
            """Runs it."""
            results = super().step(stage, jobs)
            return [StepResult() for _ in results] if stage is Stage.VAE_DECODE else results

    world = World(device=Empty)
    world.submit(make_request("r"))
    world.run()
    world.check_balance()
    assert isinstance(finished(world, "r").error, RuntimeError)


def test_a_missing_refiner_falls_back_where_allowed() -> None:
    """A server without a refiner serves the base's image with a declared fallback, or refuses."""
    world = World(refiner=False)
    world.submit(make_request("r"))
    world.run()
    assert [f.reason for f in finished(world, "r").fallbacks] == [FallbackReason.NOT_LOADED]
    with pytest.raises(RefinerUnavailable):
        world.submit(make_request("strict", allowed_fallbacks=NO_FALLBACK))
    world.submit(make_request("plain", use_refinement=False))
    world.run()
    assert finished(world, "plain").fallbacks == ()
