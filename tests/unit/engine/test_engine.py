"""What the engine does to one generation: admission, faults, deadlines, cancellation, shutdown."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from imagegen_server.core import (
    STEP_STAGES,
    FallbackKind,
    FallbackReason,
    GenerationRequest,
    GenerationState,
    Job,
    Outcome,
    RefinerMode,
    RejectReason,
    Stage,
    StepResult,
)
from imagegen_server.engine import (
    Engine,
    EngineSettings,
    FallbackTaken,
    Finished,
    ImageReady,
    PromptTruncated,
    QueueUpdate,
    StepProgress,
)
from imagegen_server.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    DeviceLost,
    InvalidRequest,
    NonFinite,
    NotFound,
    OutOfDeviceMemory,
    QueueFull,
    RefinerUnavailable,
    Unavailable,
    UnavailableReason,
)
from imagegen_server.models.fake.runner import FakeRunner
from imagegen_server.models.fake.script import FakeTiming, InjectedError
from imagegen_server.warm_up import warm_up_request
from support.simulation import PROFILE, Referee, World, encode, encode_preview, make_request

NO_FALLBACK: frozenset[FallbackKind] = frozenset()


def finished(world: World, request_id: str) -> Finished:
    """Returns the last event of a generation."""
    last = world.seen[request_id][-1].event
    assert isinstance(last, Finished)
    return last


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
    assert sizes[0] == 8
    assert max(sizes[-5:]) <= 4


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


def test_a_queue_that_is_full_refuses_with_a_time() -> None:
    """The cap is never exceeded, and the refusal says when to come back."""
    world = World(EngineSettings(queue_capacity=2, max_running=1, native_area=64))
    for number in range(2):
        world.submit(make_request(f"r{number}"))
    world.engine.turn()
    world.submit(make_request("third"))
    with pytest.raises(QueueFull) as refusal:
        world.submit(make_request("fourth"))
    assert 0.1 <= refusal.value.retry_after <= 30
    assert world.referee.rejections == {RejectReason.QUEUE_FULL: 1}
    assert world.engine.queue_state().queued == 2


def test_a_deadline_that_cannot_be_met_is_refused_once_costs_are_known() -> None:
    """The estimate comes from measured turns, and the error carries it."""
    world = World()
    world.submit(make_request("first"))
    world.run()
    with pytest.raises(DeadlineExceeded) as refusal:
        world.submit(make_request("r", num_inference_steps=100), deadline=0.5)
    assert refusal.value.estimate is not None
    assert refusal.value.estimate > 0.5
    world.submit(make_request("r", num_inference_steps=100), deadline=5.0)


def test_an_old_estimate_refuses_nobody() -> None:
    """A minute without a turn, an estimate is no reason to refuse: the caller runs, and the cost is learned anew."""
    world = World()
    world.submit(make_request("first"))
    world.run()
    world.clock.sleep(61)
    world.submit(make_request("r", num_inference_steps=100), deadline=0.5)
    world.run()
    assert isinstance(finished(world, "r").error, DeadlineExceeded)
    with pytest.raises(DeadlineExceeded):
        world.submit(make_request("s", num_inference_steps=100), deadline=0.5)


def test_a_deadline_that_passes_stops_the_device_within_a_step() -> None:
    """The error names the stage and the step that were reached."""
    world = World()
    world.submit(make_request("r", num_inference_steps=40), deadline=0.2)
    world.run()
    error = finished(world, "r").error
    assert isinstance(error, DeadlineExceeded)
    assert error.stage is Stage.BASE
    assert error.step == world.runner.evaluations["r", 0, Stage.BASE]
    assert world.referee.outcomes == {"r": [Outcome.DEADLINE]}
    assert world.referee.elapsed["r"] <= 0.2 + 0.015


def test_a_queued_generation_ends_at_its_deadline() -> None:
    """Waiting does not outlast the caller."""
    world = World(EngineSettings(max_running=1, native_area=64))
    world.submit(make_request("long", num_inference_steps=50))
    world.engine.turn()
    world.submit(make_request("r"), deadline=0.1)
    world.run()
    error = finished(world, "r").error
    assert isinstance(error, DeadlineExceeded)
    assert error.stage is Stage.QUEUED
    assert ("r", 0, Stage.BASE) not in world.runner.evaluations


def test_no_time_for_the_refiner_returns_the_base() -> None:
    """At the hand-off the refiner is left out if the deadline leaves no time for it and the caller accepts that."""
    world = World()
    world.submit(make_request("first", refiner_steps=50))
    world.run()
    seconds = world.referee.elapsed["first"]
    world.submit(make_request("r", refiner_steps=50), deadline=seconds * 0.6)
    world.run()
    assert [f.reason for f in finished(world, "r").fallbacks] == [FallbackReason.DEADLINE]
    assert world.runner.evaluations["r", 0, Stage.REFINER] == 0
    with pytest.raises(DeadlineExceeded):
        world.submit(make_request("strict", refiner_steps=50, allowed_fallbacks=NO_FALLBACK), deadline=seconds * 0.6)


@pytest.mark.parametrize(("images", "refiner_steps", "rows"), [(4, 10, 16), (4, 30, 16), (4, 10, 4), (8, 10, 16)])
@pytest.mark.parametrize("apart", [True, False])
def test_no_image_is_refined_at_the_cost_of_another(images: int, refiner_steps: int, rows: int, apart: bool) -> None:
    """Whatever the deadline, as many are refined as it allows, and all arrive; what is hopeless is refused."""

    def world() -> World:
        return World(EngineSettings(native_area=64, row_budget=rows, siblings_apart=apart))

    def several(name: str, **changes: Any) -> GenerationRequest:
        return make_request(name, num_images=images, refiner_steps=refiner_steps, **changes)

    base, timed = world(), world()
    base.submit(several("base", use_refinement=False))
    base.run()
    shortest = base.referee.elapsed["base"]
    timed.submit(several("learn"))
    timed.run()
    refined = []
    for more in range(3, 250, 7):
        name = f"r{more}"
        timed.submit(several(name), deadline=(1 + more / 100) * shortest)
        timed.run()
        last = finished(timed, name)
        assert last.error is None, more
        assert {f.reason for f in last.fallbacks} <= {FallbackReason.DEADLINE}
        refined.append(images - len(last.fallbacks))
    assert refined[0] == 0
    assert refined == sorted(refined)
    assert refined[-1] > 0
    with pytest.raises(DeadlineExceeded, match="cannot be met"):
        timed.submit(several("hopeless"), deadline=0.9 * shortest)


def test_a_refiner_of_its_own_guidance_takes_its_own_rows() -> None:
    """The fake device takes as long as its plan says: two rows where a stage is guided, one where it is not."""
    world = World(timing=FakeTiming(evaluation=0.0, row=1.0, text_encode=0.0, vae_decode=0.0))
    request = make_request("r", num_inference_steps=3, refiner_steps=5, guidance_scale=1.0)
    assert request.refiner is not None
    world.submit(dataclasses.replace(request, refiner=dataclasses.replace(request.refiner, guidance_scale=8.0)))
    world.run()
    assert world.referee.usages["r"].device_seconds == pytest.approx(3 * 1 + 5 * 2)


def test_one_step_cannot_be_divided() -> None:
    """The fake runner refuses it, as the real one does."""
    request = make_request("r", num_inference_steps=1)
    assert request.refiner is not None
    ensemble = dataclasses.replace(request.refiner, mode=RefinerMode.ENSEMBLE, switch_at=0.8)
    with pytest.raises(InvalidRequest, match="num_inference_steps"):
        World().submit(dataclasses.replace(request, refiner=ensemble))


def test_a_cancel_after_the_delivery_comes_too_late() -> None:
    """While the caller is told of the end, the generation has completed for everybody else as well."""
    world = World()
    ticket = world.submit(make_request("r"))
    while world.engine.turn():
        pass
    assert isinstance(ticket.take()[-1].event, Finished)
    assert ticket.delivered() > 0
    assert world.engine.cancel("r") is GenerationState.COMPLETED
    ticket.close()
    assert world.referee.outcomes == {"r": [Outcome.OK]}
    assert world.engine.cancel("r") is GenerationState.COMPLETED


@pytest.mark.parametrize("error", [Cancelled("left"), DeadlineExceeded("read nothing"), RuntimeError("a bug")])
def test_what_was_delivered_has_completed_however_its_call_ends(error: Exception) -> None:
    """A caller that is lost while it is told of the end, and the server's own end, change nothing."""
    world = World()
    ticket = world.submit(make_request("r"))
    while world.engine.turn():
        pass
    ticket.delivered()
    world.engine.stop(Unavailable(UnavailableReason.DRAINING, "the grace period is over"))
    assert not world.referee.outcomes
    ticket.close(error)
    assert world.referee.outcomes == {"r": [Outcome.OK]}
    report = world.engine.report("r")
    assert (report.state, report.finished.error, report.fraction) == (GenerationState.COMPLETED, None, 1.0)


def test_what_was_cancelled_is_not_delivered() -> None:
    """The other way round the caller is told of the cancel, not of the end."""
    world = World()
    ticket = world.submit(make_request("r"))
    while world.engine.turn():
        pass
    assert world.engine.cancel("r") is GenerationState.CANCELLED
    with pytest.raises(Cancelled):
        ticket.delivered()
    ticket.close(Cancelled("left"))
    assert world.referee.outcomes == {"r": [Outcome.CANCELLED]}


def test_cancel_is_idempotent_and_knows_what_ended() -> None:
    """Cancelling twice, or after the end, changes nothing; an unknown id is an error."""
    world = World()
    world.submit(make_request("r"))
    world.engine.turn()
    assert world.engine.cancel("r") is GenerationState.CANCELLED
    assert world.engine.cancel("r") is GenerationState.CANCELLED
    world.run()
    assert isinstance(finished(world, "r").error, Cancelled)
    assert world.engine.cancel("r") is GenerationState.CANCELLED
    world.submit(make_request("done"))
    world.run()
    assert world.engine.cancel("done") is GenerationState.COMPLETED
    with pytest.raises(NotFound):
        world.engine.cancel("never")
    world.check_balance()


def test_a_cancel_of_what_fails_already_says_so() -> None:
    """Between a failure and the turn in which the device leaves it, a cancel is told how the generation will end."""
    world = World()
    ticket = world.submit(make_request("r"))
    world.engine.turn()
    ticket.close(DeadlineExceeded("the deadline of the call passed"))
    assert world.engine.cancel("r") is GenerationState.FAILED
    world.run()
    assert world.engine.report("r").state is GenerationState.FAILED


def test_cancel_reaches_a_generation_that_is_being_sent() -> None:
    """The caller's hold learns of it, and the generation does not count as delivered."""
    world = World()
    ticket = world.submit(make_request("r"))
    while not any(isinstance(e.event, Finished) for e in world.seen["r"]):
        world.engine.turn()
        world.seen["r"] += ticket.take()
    assert ticket.stopped is None
    world.engine.cancel("r")
    assert isinstance(ticket.stopped, Cancelled)
    ticket.close()
    del world.tickets["r"]
    assert world.referee.outcomes == {"r": [Outcome.CANCELLED]}


def test_an_id_is_used_for_one_body() -> None:
    """A living id, and a recent id with another body, are refused; the same body may run again."""
    world = World()
    world.submit(make_request("r"))
    with pytest.raises(AlreadyExists):
        world.submit(make_request("r"))
    world.run()
    with pytest.raises(AlreadyExists):
        world.engine.submit(make_request("r"), fingerprint=b"other", deadline=None, on_ready=lambda: None)
    world.submit(make_request("r"))
    world.run()
    assert world.referee.outcomes["r"] == [Outcome.OK, Outcome.OK]
    assert world.referee.rejections == {RejectReason.INVALID: 2}


def test_draining_ends_the_queue_and_lets_running_work_end() -> None:
    """Queued generations end with the reason, running ones complete, new ones are refused."""
    world = World(EngineSettings(max_running=1, native_area=64))
    world.submit(make_request("running"))
    world.engine.turn()
    world.submit(make_request("queued"))
    reason = Unavailable(UnavailableReason.DRAINING, "the server is shutting down")
    world.engine.drain(reason)
    with pytest.raises(Unavailable):
        world.submit(make_request("late"))
    world.run()
    world.check_balance()
    assert finished(world, "queued").error is reason
    assert world.referee.outcomes == {"queued": [Outcome.ERROR], "running": [Outcome.OK]}
    assert world.referee.rejections == {RejectReason.DRAINING: 1}


def test_slow_readers_hold_back_new_work_not_memory() -> None:
    """No generation starts while too many finished ones wait to be read."""
    world = World(EngineSettings(max_running=1, max_delivering=1, native_area=64))
    first = world.submit(make_request("slow"))
    world.submit(make_request("next"))
    for _ in range(60):
        world.engine.turn()
    assert world.engine.queue_state().queued == 1
    while not isinstance((taken := first.take())[-1].event, Finished):
        world.seen["slow"] += taken
    world.seen["slow"] += taken
    first.close()
    del world.tickets["slow"]
    world.run()
    assert world.referee.outcomes["next"] == [Outcome.OK]


def test_a_reader_that_sleeps_gets_coalesced_progress_and_everything_else() -> None:
    """However long it sleeps, what waits for it is bounded by the stages, not by the steps."""
    world = World()
    ticket = world.submit(make_request("r", num_inference_steps=100, refiner_steps=50))
    for _ in range(200):
        world.engine.turn()
    events = [numbered.event for numbered in ticket.take()]
    assert sum(isinstance(e, StepProgress) for e in events) == 2
    assert len(events) < 20
    assert isinstance(events[-1], Finished)
    ticket.close()


def test_progress_is_exact_and_throttled() -> None:
    """With no interval every step is reported; with a long one only the first and the last of each stage."""
    world = World()
    world.submit(make_request("all", scheduler="HeunDiscreteScheduler"))
    world.submit(make_request("few", min_progress_interval=60.0))
    world.run()
    reported = {
        request_id: [
            (e.event.stage, e.event.completed_steps, e.event.total_steps)
            for e in world.seen[request_id]
            if isinstance(e.event, StepProgress)
        ]
        for request_id in ("all", "few")
    }
    assert reported["all"] == [
        *((Stage.BASE, step, 10) for step in range(1, 11)),
        *((Stage.REFINER, step, 5) for step in range(1, 6)),
    ]
    assert reported["few"] == [(Stage.BASE, 1, 10), (Stage.BASE, 10, 10), (Stage.REFINER, 1, 5), (Stage.REFINER, 5, 5)]
    fractions = [e.event.overall_fraction for e in world.seen["all"] if isinstance(e.event, StepProgress)]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < fractions[-1] < 1


def test_the_queue_is_told_its_position() -> None:
    """Generations that wait learn where they are when others start."""
    world = World(EngineSettings(max_running=1, native_area=64, queue_update_interval=0.0))
    for number in range(3):
        world.submit(make_request(f"r{number}", num_inference_steps=10 + number))
    world.run()
    updates = [e.event.position for e in world.seen["r2"] if isinstance(e.event, QueueUpdate)]
    assert updates == [1, 0]


def test_a_cut_prompt_is_reported() -> None:
    """The text encoder's report reaches the caller, for each encoder."""
    world = World()
    world.submit(make_request("r", prompt=" ".join(["word"] * 80)))
    world.run()
    cut = [e.event.truncation for e in world.seen["r"] if isinstance(e.event, PromptTruncated)]
    assert [(t.encoder, t.removed_tokens) for t in cut] == [("text_encoder", 5), ("text_encoder_2", 5)]


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


def test_a_lost_device_ends_everything_and_the_thread() -> None:
    """Every generation ends UNAVAILABLE, the device thread raises, and new work is refused."""
    referee = Referee()
    engine = Engine(
        runner=FakeRunner(PROFILE, timing=FakeTiming(evaluation=0.001)),
        encode=encode,
        encode_preview=encode_preview,
        observer=referee,
        settings=EngineSettings(),
    )
    tickets = [
        engine.submit(make_request(name, prompt=prompt), fingerprint=b"", deadline=None, on_ready=lambda: None)
        for name, prompt in (("a", "a circle"), ("b", "{base:lost@3}"))
    ]
    with pytest.raises(DeviceLost):
        engine.run_forever()
    for ticket in tickets:
        last = ticket.take()[-1].event
        assert isinstance(last, Finished)
        assert isinstance(last.error, Unavailable)
        assert last.error.reason == "DEVICE_LOST"
    with pytest.raises(Unavailable):
        engine.submit(make_request("c"), fingerprint=b"", deadline=None, on_ready=lambda: None)
    assert sorted(referee.outcomes) == ["a", "b"]


def test_a_real_thread_wakes_for_work_and_stops() -> None:
    """On real threads: idle, served, idle again, stopped; and waiting for idleness returns."""
    referee = Referee()
    engine = Engine(
        runner=FakeRunner(PROFILE, timing=FakeTiming(evaluation=0.0, text_encode=0.0, vae_decode=0.0)),
        encode=encode,
        encode_preview=encode_preview,
        observer=referee,
        settings=EngineSettings(),
    )
    thread = threading.Thread(target=engine.run_forever)
    thread.start()
    for number in range(20):
        ready = threading.Event()
        ticket = engine.submit(
            make_request(f"r{number}"), fingerprint=b"", deadline=time.monotonic() + 60, on_ready=ready.set
        )
        last = None
        while not isinstance(last, Finished):
            assert ready.wait(30)
            ready.clear()
            for numbered in ticket.take():
                last = numbered.event
        ticket.close(last.error)
    assert engine.wait_idle(10)
    engine.stop(Unavailable(UnavailableReason.DRAINING, "over"))
    thread.join(10)
    assert not thread.is_alive()
    assert set(map(tuple, referee.outcomes.values())) == {(Outcome.OK,)}
