"""The engine under thousands of random arrival patterns, on a virtual clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagegen_server.core import STEP_STAGES, GenerationRequest, Outcome, Priority, Stage
from imagegen_server.engine import EngineSettings, Finished
from imagegen_server.errors import Cancelled, ImageGenError, QueueFull
from support.load import size
from support.simulation import World, make_request

pytestmark = pytest.mark.slow

FAULTS = [
    "",
    "{base:nan@3}",
    "{base:oom}",
    "{refiner:oom@2}",
    "{refiner:nan}",
    "{refiner:error@1}",
    "{vae_decode:error}",
]


@dataclass(frozen=True)
class Arrival:
    """One caller: when it comes, what it wants, when it leaves."""

    gap: float
    steps: int
    refiner_steps: int
    images: int
    side: int
    guidance: float
    heun: bool
    batch: bool
    isolate: bool
    fault: str
    deadline: float | None
    cancel_after: int | None


arrivals = st.builds(
    Arrival,
    gap=st.floats(0, 0.3),
    steps=st.integers(1, 12),
    refiner_steps=st.integers(0, 6),
    images=st.integers(1, 3),
    side=st.sampled_from([64, 64, 64, 128]),
    guidance=st.sampled_from([1.0, 8.0]),
    heun=st.booleans(),
    batch=st.booleans(),
    isolate=st.sampled_from([False, False, False, True]),
    fault=st.sampled_from([""] * 6 + FAULTS),
    deadline=st.none() | st.floats(0.05, 3),
    cancel_after=st.none() | st.integers(0, 40),
)
engines = st.builds(
    EngineSettings,
    queue_capacity=st.integers(1, 12),
    max_running=st.integers(1, 6),
    max_delivering=st.integers(1, 3),
    row_budget=st.integers(2, 9),
    native_area=st.just(64),
    switch_seconds=st.sampled_from([0.0, 0.5]),
    siblings_apart=st.booleans(),
)


def request_of(number: int, a: Arrival) -> GenerationRequest:
    """Returns what an arrival asks for."""
    return make_request(
        f"r{number}",
        prompt=f"a circle {a.fault}",
        num_inference_steps=a.steps,
        refiner_steps=a.refiner_steps,
        use_refinement=a.refiner_steps > 0,
        num_images=a.images,
        width=a.side,
        height=a.side,
        guidance_scale=a.guidance,
        scheduler="HeunDiscreteScheduler" if a.heun else "EulerDiscreteScheduler",
        priority=Priority.BATCH if a.batch else Priority.INTERACTIVE,
        isolate_batch=a.isolate,
    )


def play(world: World, pattern: list[Arrival]) -> dict[str, Arrival]:
    """Lets the callers come, leave and be served until nobody is left; returns who was admitted."""
    admitted: dict[str, Arrival] = {}
    cancels: list[tuple[int, str]] = []
    due = world.clock.now
    turn = 0
    waiting = list(enumerate(pattern))
    while waiting or world.tickets:
        while waiting and world.clock.now >= due + waiting[0][1].gap:
            number, arrival = waiting.pop(0)
            due += arrival.gap
            try:
                world.submit(request_of(number, arrival), deadline=arrival.deadline)
            except ImageGenError:
                continue
            admitted[f"r{number}"] = arrival
            if arrival.cancel_after is not None:
                cancels.append((turn + arrival.cancel_after, f"r{number}"))
        for when, request_id in list(cancels):
            if when <= turn and request_id in world.tickets:
                world.tickets[request_id].close(Cancelled("left"))
                cancels.remove((when, request_id))
        if not world.engine.turn():
            world.clock.sleep(0.02)
        world.read()
        turn += 1
        assert turn < 50_000, "somebody starves"
    return admitted


@settings(max_examples=size(400, 2000), suppress_health_check=[HealthCheck.too_slow])
@given(engine=engines, pattern=st.lists(arrivals, min_size=1, max_size=14))
def test_every_pattern_balances(engine: EngineSettings, pattern: list[Arrival]) -> None:
    """Every admitted generation ends exactly once; no step is lost, repeated or taken beyond the row budget."""
    world = World(engine)
    admitted = play(world, pattern)
    world.check_balance()
    assert sorted(admitted) == sorted(world.referee.accepted_ids)
    for request_id, arrival in admitted.items():
        outcome = world.referee.outcomes[request_id][0]
        plan = world.runner.plan(request_of(int(request_id[1:]), arrival))
        for planned in plan.stages:
            for index in range(arrival.images):
                executed = world.runner.evaluations[request_id, index, planned.stage]
                assert executed <= planned.evaluations
                if outcome is Outcome.OK:
                    assert executed == planned.evaluations
        if outcome is Outcome.OK:
            assert world.referee.steps[request_id] == arrival.images * (arrival.steps + arrival.refiner_steps)
        if outcome is Outcome.DEGRADED:
            assert world.referee.fallbacks[request_id] >= 1
        if outcome is Outcome.CANCELLED:
            assert arrival.cancel_after is not None
        if outcome is Outcome.DEADLINE:
            assert arrival.deadline is not None
        if outcome is Outcome.ERROR:
            assert arrival.fault


@settings(max_examples=size(30, 100))
@given(
    short_steps=st.integers(1, 6),
    long_steps=st.integers(60, 100),
    load=st.floats(0.8, 1.5),
    rows=st.integers(2, 8),
    batch_priority=st.booleans(),
)
def test_long_work_overtakes_a_stream_of_short_work(
    short_steps: int, long_steps: int, load: float, rows: int, batch_priority: bool
) -> None:
    """However many short generations keep coming, a long one ends within a bound that its size alone sets."""
    world = World(EngineSettings(native_area=64, row_budget=rows, max_running=4, queue_capacity=50))
    priority = Priority.BATCH if batch_priority else Priority.INTERACTIVE
    world.submit(make_request("long", num_inference_steps=long_steps, use_refinement=False, priority=priority))
    short_seconds, long_seconds = 0.02 + short_steps * 0.014, 0.02 + long_steps * 0.014
    # A short one waits at most a full queue. The claim of the long one passes even that one's once the fourth power of
    # its age exceeds the root of the ratio of their work (times a hundred for batch priority) times that of this wait.
    full_queue = 50 * short_seconds
    ratio = math.sqrt(long_seconds / short_seconds) * (100 if batch_priority else 1)
    bound = 4 * (long_seconds + full_queue * ratio**0.25)
    next_arrival, number = world.clock.now, 0
    began = world.clock.now
    while "long" not in world.referee.outcomes:
        while world.clock.now >= next_arrival:
            next_arrival += short_seconds / load
            number += 1
            try:
                world.submit(make_request(f"s{number}", num_inference_steps=short_steps, use_refinement=False))
            except QueueFull:
                continue
        world.engine.turn()
        world.read()
        assert world.clock.now - began < bound
    assert world.referee.outcomes["long"] == [Outcome.OK]


@settings(max_examples=100)
@given(rows=st.integers(2, 16), others=st.integers(1, 8), phase=st.integers(0, 30))
def test_a_generation_joins_and_leaves_between_any_two_steps(rows: int, others: int, phase: int) -> None:
    """A newcomer's first turn comes within one turn while the device has a slot, and its cancel takes one turn."""
    world = World(EngineSettings(native_area=64, row_budget=rows, max_running=others + 1))
    for number in range(others):
        world.submit(make_request(f"o{number}", num_inference_steps=40))
    for _ in range(phase):
        world.engine.turn()
    ticket = world.submit(make_request("new", num_inference_steps=2, refiner_steps=1))
    world.engine.turn()
    assert "new" in world.referee.waits
    turns = len(world.runner.batches)
    ticket.close(Cancelled("left"))
    world.engine.turn()
    assert world.referee.outcomes["new"] == [Outcome.CANCELLED]
    assert all("new" not in {job.request.request_id for job in jobs} for _, jobs in world.runner.batches[turns:])
    world.run()
    world.check_balance()


def test_equal_work_shares_full_batches() -> None:
    """Eight equal generations that arrive together run as batches of eight, in both stages."""
    world = World()
    for number in range(8):
        world.submit(make_request(f"r{number}"))
    world.run()
    world.check_balance()
    sizes = {stage: [len(jobs) for s, jobs in world.runner.batches if s is stage] for stage in STEP_STAGES}
    assert sizes == {Stage.BASE: [8] * 10, Stage.REFINER: [8] * 5}


def test_staggered_work_still_fills_the_refiner() -> None:
    """In a closed loop of eight, refiner batches do not shrink to single jobs while batching pays."""
    world = World()
    started = 0

    def submit() -> None:
        nonlocal started
        world.submit(make_request(f"r{started}", num_inference_steps=10 + started % 5))
        started += 1

    for _ in range(8):
        submit()
    while started < 120:
        world.engine.turn()
        world.read()
        while len(world.tickets) < 8:
            submit()
    rows = [len(jobs) for stage, jobs in world.runner.batches if stage in STEP_STAGES]
    assert sum(rows) / len(rows) > 4
    world.run()


def test_events_tell_the_story_in_order() -> None:
    """A lone generation's events are its plan, its stages in order, its image and its end."""
    world = World()
    world.submit(make_request("r"))
    world.run()
    names = [type(e.event).__name__ for e in world.seen["r"] if type(e.event).__name__ != "StepProgress"]
    assert names == [
        "Accepted",
        *["StageStarted", "StageCompleted"] * 5,
        "StageStarted",
        "StageCompleted",
        "ImageReady",
        "Finished",
    ]
    last = world.seen["r"][-1].event
    assert isinstance(last, Finished)
    assert [t.stage for t in last.stage_timings] == [
        Stage.QUEUED,
        Stage.TEXT_ENCODE,
        Stage.BASE,
        Stage.REFINER,
        Stage.VAE_DECODE,
        Stage.IMAGE_ENCODE,
    ]
    assert {t.stage: t.steps for t in last.stage_timings}[Stage.BASE] == 10
