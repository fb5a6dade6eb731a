"""The choice of what runs next, case by case."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from imagegen_server.core import LatentShape, Plan, Precision, Priority, Stage, StagePlan
from imagegen_server.engine import EngineSettings
from imagegen_server.engine.buffer import EventBuffer
from imagegen_server.engine.estimate import CostModel
from imagegen_server.engine.events import QueueUpdate, StageStarted
from imagegen_server.engine.policy import Batching, Candidate, weight
from imagegen_server.engine.utilization import Utilization

SHAPE = (16, 16)


def candidate(key: int, **changes: object) -> Candidate:
    """Returns a guided base job."""
    values: dict[str, object] = {
        "key": key,
        "generation": key,
        "stage": Stage.BASE,
        "shape": SHAPE,
        "rows": 2,
        "weight": 1.0,
        "alone": False,
        "evaluations_left": 10,
    }
    return Candidate(**(values | changes))  # type: ignore[arg-type] # the cases below are typed by their names


def costs(stage: Stage, shape: LatentShape, rows: int) -> float:
    """Returns the seconds of an evaluation that hardly takes longer with more rows."""
    return 0.01 + 0.001 * rows


def pick(
    *candidates: Candidate,
    rows: int = 8,
    seconds: Callable[[Stage, LatentShape, int], float] = costs,
    siblings_apart: bool = False,
    crowd: float = math.inf,
    **how: Any,
) -> set[int]:
    """Returns the keys that are chosen; without a crowd, any gain is enough."""
    batching = Batching(seconds, lambda stage, shape: rows, siblings_apart=siblings_apart)
    return set(batching.choose(candidates, crowd=crowd, **how))


def test_nothing_to_choose() -> None:
    """Without candidates nothing runs."""
    assert pick() == set()


def test_a_batch_has_one_stage_and_one_shape() -> None:
    """Jobs that differ in either never share a batch; the fuller group wins."""
    assert pick(candidate(1), candidate(2), candidate(3, shape=(8, 8)), candidate(4, stage=Stage.REFINER)) == {1, 2}


def test_the_heaviest_fill_the_budget() -> None:
    """With more jobs than rows, the greatest claims go first, and a smaller job fills a gap."""
    jobs = [candidate(n, weight=float(n)) for n in range(1, 6)]
    assert pick(*jobs, candidate(9, rows=1, weight=0.1), rows=5) == {5, 4, 9}


def test_a_job_alone_shares_with_nobody() -> None:
    """An isolated job runs by itself, when its claim is the greatest."""
    assert pick(candidate(1, alone=True, weight=50.0), candidate(2), candidate(3)) == {1}
    assert pick(candidate(1, alone=True, weight=0.1), candidate(2), candidate(3)) == {2, 3}


@pytest.mark.parametrize(
    ("crowd", "expected"),
    [(4.0, {1}), (7.0, {1}), (9.0, {1, 2}), (13.0, {1, 2, 3}), (17.0, {1, 2, 3, 4}), (math.inf, {1, 2, 3, 4})],
)
def test_a_batch_that_gains_little_is_shared_by_more_the_more_there_are(crowd: float, expected: set[int]) -> None:
    """Where m take 0.2 + 0.8 m times as long as one, sharing ends four later in the mean, and seventeen earlier."""
    jobs = [candidate(n) for n in range(1, 5)]
    assert pick(*jobs, crowd=crowd, seconds=lambda stage, shape, rows: 0.2 + 0.4 * rows) == expected


@pytest.mark.parametrize(
    ("slack", "expected"), [(math.inf, {1}), (11.0, {1}), (9.0, {1, 2, 3}), (0.0, {1, 2, 3}), (-1.0, {1})]
)
def test_a_deadline_that_waiting_would_miss_is_worth_a_batch(slack: float, expected: set[int]) -> None:
    """Though it gains little; but not for what cannot end in time in any case."""
    jobs = [candidate(n, remaining=10.0) for n in (1, 3)]
    late = candidate(2, remaining=10.0, slack=slack)
    assert pick(*jobs, late, crowd=3.0, seconds=lambda stage, shape, rows: 0.2 + 0.4 * rows) == expected


def test_nobody_waits_for_stragglers_that_would_not_share() -> None:
    """Their company at the refiner would be cut, and the wait in vain."""
    refiner = candidate(1, stage=Stage.REFINER, evaluations_left=30)
    near = candidate(2, evaluations_left=1, next_evaluations=30, next_rows=2, weight=0.1)
    assert pick(refiner, near, seconds=lambda stage, shape, rows: 0.2 + 0.4 * rows) == {2}
    assert pick(refiner, near, crowd=2.0, seconds=lambda stage, shape, rows: 0.2 + 0.4 * rows) == {1}


def test_a_batch_that_gains_much_is_shared_by_two() -> None:
    """Where two take less than one and a half times as long as one, both end earlier in the mean."""
    assert pick(candidate(1), candidate(2), crowd=2.0) == {1, 2}


def test_images_of_one_generation_share_whatever_it_gains() -> None:
    """A generation has ended when its last image has: nobody gains if they run one by one."""
    jobs = [candidate(n, generation=7) for n in (1, 2, 3)]
    assert pick(*jobs, candidate(4, weight=0.5), crowd=2.0, seconds=lambda stage, shape, rows: 0.1 * rows) == {1, 2, 3}


def test_where_models_swap_batches_are_full() -> None:
    """What sharing saves there is a swap for each generation, which costs more than an evaluation."""
    how: dict[str, Any] = {"crowd": 2.0, "resident": Stage.BASE, "switch_seconds": 1.0}
    assert pick(candidate(1), candidate(2), seconds=lambda stage, shape, rows: 0.1 * rows, **how) == {1, 2}


def test_siblings_run_apart_unless_strangers_join() -> None:
    """Where asked for, a batch is one image of a generation, or has more than one generation in it."""
    siblings = [candidate(n, generation=1, weight=2.0) for n in (1, 2, 3)]
    assert pick(*siblings) == {1, 2, 3}
    assert pick(*siblings, siblings_apart=True) == {1}
    assert pick(*siblings, candidate(4), siblings_apart=True) == {1, 2, 3, 4}
    assert pick(*siblings, candidate(4), rows=4, siblings_apart=True) == {1, 4}


def test_text_comes_first_and_whole() -> None:
    """All jobs of one generation are encoded together, before steps."""
    text = {"stage": Stage.TEXT_ENCODE, "generation": 7}
    assert pick(candidate(1, weight=99.0), candidate(2, **text), candidate(3, **text)) == {2, 3}


def test_where_batching_does_not_pay_the_shortest_goes_first() -> None:
    """If rows cost their full price, one nearly finished job beats a full batch."""
    proportional = lambda stage, shape, rows: 0.01 * rows  # noqa: E731 - a one-line cost
    short = candidate(1, stage=Stage.REFINER, weight=3.0)
    rest = [candidate(n) for n in range(2, 6)]
    assert pick(short, *rest, seconds=proportional) == {1}
    assert pick(short, *rest, seconds=lambda stage, shape, rows: 0.01) == {2, 3, 4, 5}


def test_a_refiner_batch_waits_for_stragglers_while_that_pays() -> None:
    """Jobs about to leave the base catch up first if sharing the refiner's evaluations saves more than the wait."""
    seconds = lambda stage, shape, rows: 0.010 + 0.001 * rows  # noqa: E731 - a one-line cost
    refiner = [candidate(n, stage=Stage.REFINER, weight=9.0) for n in (1, 2)]
    near = candidate(3, evaluations_left=2, next_evaluations=10, next_rows=2)
    # together: 10 shared evaluations save 10 ms each; the wait is 2 x 12 ms
    assert pick(*refiner, near, seconds=seconds) == {3}
    assert pick(*refiner, candidate(3, evaluations_left=9, next_evaluations=10, next_rows=2), seconds=seconds) == {1, 2}
    assert pick(*refiner, candidate(3, evaluations_left=2), seconds=seconds) == {1, 2}, "it has no refiner stage"
    assert pick(*refiner, near, seconds=seconds, rows=4) == {1, 2}, "there is no room for it"
    assert pick(*refiner, near, seconds=seconds, switch_seconds=1.0, resident=Stage.REFINER) == {1, 2}
    two = candidate(4, evaluations_left=3, next_evaluations=10, next_rows=2)
    assert pick(*refiner, near, two, seconds=seconds) == {3, 4}
    own = candidate(5, generation=1, evaluations_left=2, next_evaluations=10, next_rows=2)
    assert pick(*refiner, own, seconds=seconds, siblings_apart=True) == {1, 2}, "they will not share a batch"
    assert pick(*refiner, near, seconds=lambda stage, shape, rows: 0.01 * rows) == {1, 2}, "nothing is saved"
    apart = replace(near, shape=(8, 8))
    assert pick(*refiner, apart, seconds=seconds) == {1, 2}, "its latents have another shape"
    assert pick(*refiner, replace(near, alone=True), seconds=seconds) == {1, 2}, "it runs by itself"
    alone = replace(refiner[0], alone=True)
    assert pick(alone, near, seconds=seconds) == {1}, "the refiner's job runs by itself"
    narrow = replace(refiner[0], rows=1)
    plain = [replace(straggler, next_rows=1) for straggler in (near, two)]
    assert pick(narrow, *plain, seconds=seconds, rows=3) == {3}, "the base has room for one of them"


def test_swapping_is_weighed_against_the_work_it_opens() -> None:
    """A swap that costs more than the other stage's work gains is put off."""
    jobs = [candidate(1), candidate(2, stage=Stage.REFINER, weight=1.5)]
    assert pick(*jobs, resident=Stage.BASE) == {2}
    assert pick(*jobs, resident=Stage.BASE, switch_seconds=1.0) == {1}
    for left, expected in ((10, {1}), (100, {2})):
        long = candidate(2, stage=Stage.REFINER, weight=5.0, evaluations_left=left)
        assert pick(candidate(1), long, resident=Stage.BASE, switch_seconds=1.0) == expected


def test_age_beats_size_and_priority() -> None:
    """A claim grows without bound while it waits, in either priority."""
    young = weight(remaining=0.1, age=0.0, priority=Priority.INTERACTIVE)
    old = weight(remaining=10.0, age=500.0, priority=Priority.BATCH)
    assert old > young
    for age in (0.0, 10.0):
        batch, interactive = (
            weight(remaining=1.0, age=age, priority=priority) for priority in (Priority.BATCH, Priority.INTERACTIVE)
        )
        assert batch < interactive
    assert weight(remaining=1.0, age=32.0, priority=Priority.BATCH) > weight(
        remaining=1.0, age=10.0, priority=Priority.INTERACTIVE
    )


def test_costs_are_learned_and_carried_to_other_rows_and_shapes() -> None:
    """A line through what was measured predicts other row counts; another shape costs by its area."""
    cost = CostModel()
    plan = Plan(
        stages=(StagePlan(stage=Stage.BASE, steps=10, evaluations=10, guidance_scale=8.0),),
        latent_shape=SHAPE,
        precision=Precision.FP32,
        refiner_mode=None,
    )
    assert not cost.knows(plan)
    for _ in range(20):
        for rows in (2, 4, 8):
            cost.observe(Stage.BASE, SHAPE, rows, 0.01 + 0.002 * rows, 0.0)
    assert cost.knows(plan)
    assert cost.seconds(Stage.BASE, SHAPE, 16) == pytest.approx(0.042, rel=0.01)
    assert cost.seconds(Stage.BASE, (32, 32), 2) == pytest.approx(4 * 0.014, rel=0.01)
    assert cost.plan_seconds(plan) == pytest.approx(0.14, rel=0.01)
    assert cost.batching_gain(Stage.BASE, SHAPE, 2, 16) == pytest.approx(8 * 0.014 / 0.042, rel=0.01)


def test_a_size_that_was_not_measured_borrows_from_the_nearest() -> None:
    """Also once a nearer one is measured, which costs more than its area says."""
    cost = CostModel()
    cost.observe(Stage.BASE, (8, 8), 2, 0.01, 0.0, prepared=True)
    assert cost.seconds(Stage.BASE, (24, 24), 2) == pytest.approx(9 * 0.01)
    cost.observe(Stage.BASE, (32, 32), 2, 0.32, 0.0, prepared=True)
    assert cost.seconds(Stage.BASE, (24, 24), 2) == pytest.approx(0.32 * 9 / 16)


def test_costs_never_fall_with_rows() -> None:
    """Noise in the measurements does not predict that more rows are faster."""
    cost = CostModel()
    for _ in range(5):
        cost.observe(Stage.BASE, SHAPE, 2, 0.05, 0.0)
        cost.observe(Stage.BASE, SHAPE, 8, 0.01, 0.0)
    assert cost.seconds(Stage.BASE, SHAPE, 16) >= cost.seconds(Stage.BASE, SHAPE, 2)


def test_what_a_row_count_pays_once_is_not_believed_for_long() -> None:
    """A graph that is captured for more rows does not make them look slow, nor do the very first turns."""
    cost = CostModel()
    for turns, seconds in enumerate((3.0, 1.0, 0.014, 0.014)):
        assert cost.prepared(Stage.BASE, SHAPE, 2) is (turns >= 2)
        cost.observe(Stage.BASE, SHAPE, 2, seconds, 0.0)
    for seconds in (0.5, 0.2):
        cost.observe(Stage.BASE, SHAPE, 8, seconds, 0.0)
    assert cost.seconds(Stage.BASE, SHAPE, 2) == pytest.approx(0.014)
    for _ in range(2):
        cost.observe(Stage.BASE, SHAPE, 8, 0.026, 0.0)
    assert cost.seconds(Stage.BASE, SHAPE, 8) == pytest.approx(0.026)


def test_a_prepared_turn_is_believed_at_once() -> None:
    """A warm-up has paid for what is only needed once; what follows it adds to what it found."""
    cost = CostModel()
    cost.observe(Stage.BASE, SHAPE, 2, 0.014, 0.0, prepared=True)
    for _ in range(3):
        cost.observe(Stage.BASE, SHAPE, 8, 0.026, 0.0)
    assert cost.seconds(Stage.BASE, SHAPE, 2) == pytest.approx(0.014)
    assert cost.seconds(Stage.BASE, SHAPE, 8) == pytest.approx(0.026)


def test_utilization_follows_the_device() -> None:
    """Half an hour of work that takes half of the time is half, an hour of rest is nothing, and load draws a crowd."""
    device, now = Utilization(), 1000.0
    assert device.crowd(3, now) == 3
    for _ in range(600):
        now += 3.0
        device.observe(1.5, now)
    assert device.share(now) == pytest.approx(0.5, abs=0.01)
    assert device.crowd(2, now) == pytest.approx(6, rel=0.05)
    assert device.share(now + 3600) < 1e-6
    for _ in range(4000):
        now += 1.0
        device.observe(1.0, now)
    assert device.share(now) == pytest.approx(1.0)
    assert 100 < device.crowd(1, now) < 1000


def test_one_slow_turn_is_no_evidence_and_a_lasting_change_is() -> None:
    """A pause of the machine hardly moves the estimate; a device that became slow is believed at the second turn."""
    cost = CostModel()
    for _ in range(40):
        cost.observe(Stage.BASE, SHAPE, 2, 0.01, 0.0)
    cost.observe(Stage.BASE, SHAPE, 2, 2.0, 0.0)
    assert cost.seconds(Stage.BASE, SHAPE, 2) < 0.012
    for _ in range(20):
        cost.observe(Stage.BASE, SHAPE, 2, 0.01, 0.0)
    cost.observe(Stage.BASE, SHAPE, 2, 2.0, 0.0)
    assert cost.seconds(Stage.BASE, SHAPE, 2) < 0.012
    cost.observe(Stage.BASE, SHAPE, 2, 2.0, 0.0)
    assert cost.seconds(Stage.BASE, SHAPE, 2) > 0.05


def test_only_queue_updates_and_progress_are_replaced() -> None:
    """A buffer keeps the order and every other event, and wakes its reader once for each time it was empty."""
    wakes: list[int] = []
    buffer = EventBuffer(lambda: wakes.append(1))
    started = StageStarted(stage=Stage.BASE, image_index=0, total_steps=10)
    for position in (3, 2, 1):
        buffer.publish(QueueUpdate(position=position, estimated_wait=0.0))
        buffer.publish(started)
    taken = buffer.take()
    assert [n.event for n in taken] == [started, started, QueueUpdate(position=1, estimated_wait=0.0), started]
    assert [n.sequence for n in taken] == [2, 4, 5, 6]
    assert wakes == [1]
    buffer.publish(started)
    assert wakes == [1, 1]


def test_settings_name_everything_that_is_wrong() -> None:
    """Bounds are checked together; the row budget follows the latent area."""
    with pytest.raises(ValueError, match=r"queue_capacity.*row_budget.*recent_seconds"):
        EngineSettings(queue_capacity=0, row_budget=1, recent_seconds=0.0)
    settings = EngineSettings(row_budget=16, native_area=256)
    assert [settings.rows(shape) for shape in ((16, 16), (32, 32), (8, 8), (128, 128))] == [16, 4, 64, 2]
