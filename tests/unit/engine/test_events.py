"""What a caller hears: progress, its place in the queue, a cut prompt; and what one that reads slowly misses."""

from __future__ import annotations

import pytest

from imagegen_server.core import Outcome, Stage
from imagegen_server.engine import EngineSettings, Finished, PromptTruncated, QueueUpdate, StepProgress
from support.simulation import World, make_request


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


def test_each_image_keeps_its_own_progress() -> None:
    """A reader that sleeps finds the last step of every image in both stages."""
    world = World()
    ticket = world.submit(make_request("r", num_images=3))
    while world.engine.turn():
        pass
    progress = [numbered.event for numbered in ticket.take() if isinstance(numbered.event, StepProgress)]
    assert {(e.stage, e.image_index): e.completed_steps for e in progress} == {
        (stage, index): steps for stage, steps in ((Stage.BASE, 10), (Stage.REFINER, 5)) for index in range(3)
    }
    ticket.close()


def test_the_time_that_is_left_is_what_it_takes() -> None:
    """Once costs are known, each step tells how long the device still needs."""
    world = World()
    for name in ("learned", "r"):
        world.submit(make_request(name))
        world.run()
    told = [e.event.eta for e in world.seen["r"] if isinstance(e.event, StepProgress)]
    assert told == pytest.approx([0.01 + 0.014 * left for left in range(14, -1, -1)], rel=0.1)


def test_images_that_share_a_turn_are_told_the_same_of_their_generation() -> None:
    """The first to be told does not count the others' steps as if they were still to be made."""
    world = World(EngineSettings(native_area=64, row_budget=8))
    for name in ("learned", "r"):
        world.submit(make_request(name, num_images=4))
        world.run()
    told: dict[tuple[Stage, int], set[tuple[float, float | None]]] = {}
    for progress in (e.event for e in world.seen["r"] if isinstance(e.event, StepProgress)):
        seen = told.setdefault((progress.stage, progress.completed_steps), set())
        seen.add((progress.overall_fraction, progress.eta))
    assert len(told) == 15
    assert {len(seen) for seen in told.values()} == {1}


def test_times_are_from_the_admission() -> None:
    """What its caller waited in the queue is a part of what its first step and its end took."""
    world = World(EngineSettings(max_running=1, native_area=64))
    for name in ("first", "second"):
        world.submit(make_request(name))
    world.run()
    waits = world.referee.waits
    assert waits["second"] > waits["first"] == 0
    assert world.referee.first_steps == pytest.approx({name: waits[name] + 0.01 + 0.014 for name in waits})
    assert world.referee.elapsed == pytest.approx({name: waits[name] + 0.02 + 15 * 0.014 for name in waits})


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
