"""Fairness between tenants: who is behind, and what the engine makes of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from imagegen_server.core import STEP_STAGES, Adaptation, Feature
from imagegen_server.engine import EngineSettings
from imagegen_server.engine.shares import Shares
from support.simulation import WatchedRunner, World, make_request


def test_one_tenant_is_never_behind() -> None:
    """Whatever it uses."""
    shares = Shares(0.0)
    shares.charge("a", 1.0, 100.0)
    assert shares.behind(["a"]) is None
    assert shares.behind([]) is None


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 1.0, "c": 2.0}])
def test_serving_who_is_behind_gives_everybody_their_share(weights: dict[str, float]) -> None:
    """In the long run, by weight, whatever the turns cost."""
    shares, chance = Shares(0.0), random.Random(1)
    used = dict.fromkeys(weights, 0.0)
    for _ in range(3000):
        turn = shares.behind(weights) or min(weights)
        seconds = chance.uniform(0.01, 0.1)
        used[turn] += seconds
        shares.charge(turn, weights[turn], seconds)
    for tenant, weight in weights.items():
        assert used[tenant] / sum(used.values()) == pytest.approx(weight / sum(weights.values()), rel=0.02)


def test_a_pause_saves_nothing_up() -> None:
    """Whoever comes back, or comes new, begins where the others are."""
    shares = Shares(0.0)
    shares.behind(["a"])
    shares.charge("a", 1.0, 50.0)
    assert shares.behind(["a", "b"]) is None
    shares.charge("a", 1.0, 1.0)
    assert shares.behind(["a", "b"]) == "b"
    shares.charge("b", 1.0, 1.5)
    shares.behind(["a"])
    assert shares.behind(["a", "b"]) == "a"  # leaving for a moment does not pay what was used


def test_who_is_hardly_behind_waits() -> None:
    """Below the quantum nothing is worth changing models for."""
    shares = Shares(2.0)
    shares.behind(["a", "b"])
    shares.charge("a", 1.0, 2.0)
    assert shares.behind(["a", "b"]) is None
    shares.charge("a", 1.0, 0.1)
    assert shares.behind(["a", "b"]) == "b"


def test_tenants_of_the_past_are_forgotten() -> None:
    """Their number may have no end."""
    shares = Shares(0.0)
    for number in range(1000):
        shares.behind([f"t{number}", "steady"])
        shares.charge(f"t{number}", 1.0, 0.1)
        shares.charge("steady", 1.0, 1.0)
    shares.behind(["steady"])
    assert len(shares._times) == 1


class OutOfRoom(WatchedRunner):
    """A device that has to swap its models from some moment on."""

    def adaptations(self) -> Sequence[Adaptation]:
        """Tells it once."""
        told, self._told = getattr(self, "_told", False), True
        return () if told else (Adaptation(feature=Feature.RESIDENCY, message="UNets take turns"),)


@pytest.mark.parametrize("device", [WatchedRunner, OutOfRoom])
def test_tenants_are_not_swapped_for_at_every_turn(device: type[WatchedRunner]) -> None:
    """Whether models swap from the start or from the moment at which memory ran out."""
    known = 1.0 if device is WatchedRunner else 0.0
    world = World(EngineSettings(native_area=64, switch_seconds=known, swap_seconds=1.0), device=device)
    for number in range(10):
        world.submit(make_request(f"a{number}", tenant="a", num_inference_steps=5, refiner_steps=60))
        world.submit(make_request(f"b{number}", tenant="b", num_inference_steps=60, use_refinement=False))
    world.run()
    stages = [stage for stage, _ in world.runner.batches if stage in STEP_STAGES]
    assert sum(one is not other for one, other in pairwise(stages)) <= 40


@pytest.mark.parametrize("shape", ["the same", "another"])
def test_a_full_queue_of_one_tenant_does_not_hold_up_another(shape: str) -> None:
    """A newcomer begins at once, and takes at most twice as long as alone: the device is shared between two."""
    alone, crowded = World(), World(EngineSettings(native_area=64))
    alone.submit(make_request("b", tenant="b"))
    alone.run()
    side = 64 if shape == "the same" else 128
    for number in range(40):
        crowded.submit(make_request(f"a{number}", tenant="a", width=side, height=side, num_inference_steps=40))
    for _ in range(200):
        crowded.engine.turn()
        crowded.read()
    crowded.submit(make_request("b", tenant="b"))
    crowded.run()
    crowded.check_balance()
    longest_turn = crowded.timing.evaluation + crowded.timing.row * crowded.settings.rows((8, 8))
    assert crowded.referee.waits["b"] <= longest_turn
    alone_turn = alone.timing.evaluation + alone.timing.row * 2
    turns = alone.referee.elapsed["b"] / alone_turn  # that the newcomer takes part in
    assert crowded.referee.elapsed["b"] <= 2 * longest_turn * (turns + 2)


def test_weights_divide_the_device() -> None:
    """A tenant of three times the weight gets three times the steps while both have work of different shapes."""
    world = World(EngineSettings(native_area=64, max_running=3))
    for number in range(2):
        world.submit(make_request(f"a{number}", tenant="a", tenant_weight=3.0, num_inference_steps=100, width=128))
    world.submit(make_request("b", tenant="b", num_inference_steps=100))
    for _ in range(81):
        world.engine.turn()
        world.read()
    steps = world.referee.steps
    seconds = {"a": 0.0, "b": 0.0}
    for _, jobs in world.runner.batches:
        tenant = jobs[0].request.tenant
        seconds[tenant] += world.timing.evaluation + world.timing.row * 2 * len(jobs)
    assert steps["b"] > 0
    assert seconds["a"] / seconds["b"] == pytest.approx(3.0, rel=0.15)
    world.run()
    world.check_balance()
