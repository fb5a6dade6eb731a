"""Mean latency against first come first served, on a virtual clock with the costs of real devices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from imagegen_server.core import GenerationRequest, Stage
from imagegen_server.engine import EngineSettings
from support.simulation import World, make_request

Shape = tuple[int, int]
STEPS = (20, 50)
REFINED = 0.3
REQUESTS = 60
SEEDS = range(3)


@dataclass(frozen=True)
class Device:
    """What a device costs, in seconds. `lines` has the fixed part and that of each row, by the latent's shape."""

    lines: dict[Shape, tuple[float, float]]
    text: float
    pixels: dict[Shape, float]
    row_budget: int
    native: Shape

    def seconds(self, stage: Stage, shape: Shape, rows: int) -> float:
        """What one evaluation takes."""
        if stage is Stage.TEXT_ENCODE:
            return self.text
        if stage is Stage.VAE_DECODE:
            return self.pixels[shape]
        fixed, row = self.lines[shape]
        return fixed + row * rows


DEVICES = {
    # docs/benchmarks.md: steps of two to sixteen rows on an H200, from graphs
    "H200": Device(
        lines={(64, 64): (0.0083, 0.0037), (128, 128): (0.0102, 0.0162)},
        text=0.02,
        pixels={(64, 64): 0.03, (128, 128): 0.112},
        row_budget=4,
        native=(128, 128),
    ),
    # the embedded pair on two cores of an AMD EPYC
    "two cores": Device(
        lines={(8, 8): (0.0061, 0.0007), (16, 16): (0.0056, 0.0025)},
        text=0.011,
        pixels={(8, 8): 0.011, (16, 16): 0.02},
        row_budget=16,
        native=(8, 8),
    ),
}


def shape_of(request: GenerationRequest) -> Shape:
    return request.height // 8, request.width // 8


def world_of(device: Device) -> World:
    """Returns an engine on the device, warm for each size."""
    height, width = device.native
    settings = EngineSettings(row_budget=device.row_budget, native_area=height * width, queue_capacity=REQUESTS)
    world = World(settings, seconds=lambda stage, jobs: device.seconds(stage, shape_of(jobs[0].request), 2 * len(jobs)))
    for shape in device.lines:
        world.engine.warm_up(asked(f"warm-{shape}", shape, 3))
    return world


def refined(steps: int) -> int:
    """Returns the refiner's steps."""
    return max(1, int(steps * REFINED))


def asked(name: str, shape: Shape, steps: int) -> GenerationRequest:
    return make_request(
        name,
        height=8 * shape[0],
        width=8 * shape[1],
        num_inference_steps=steps,
        refiner_steps=refined(steps),
    )


def one_at_a_time(device: Device, request: GenerationRequest) -> float:
    """Seconds of a request alone on the device."""
    steps, shape = request.num_inference_steps, shape_of(request)
    step = device.seconds(Stage.BASE, shape, 2)
    return device.text + (steps + refined(steps)) * step + device.pixels[shape]


def first_come_first_served(device: Device, due: Sequence[tuple[float, GenerationRequest]]) -> float:
    """Mean latency of one after the other."""
    free = total = 0.0
    for at, request in due:
        free = max(free, at) + one_at_a_time(device, request)
        total += free - at
    return total / len(due)


def served(device: Device, due: Sequence[tuple[float, GenerationRequest]], world: World | None = None) -> float:
    """Mean latency of the engine, in a world that is on the device if one is given."""
    world, waiting = world or world_of(device), list(due)
    began = world.clock.now
    while waiting or world.tickets:
        while waiting and world.clock.now >= began + waiting[0][0]:
            world.submit(waiting.pop(0)[1])
        if not world.engine.turn() and waiting:
            world.clock.now = max(world.clock.now, began + waiting[0][0])
        world.read()
    elapsed = [world.referee.elapsed[request.request_id] for _, request in due]
    return sum(elapsed) / len(elapsed)


def requests(device: Device, seed: int, count: int) -> list[GenerationRequest]:
    """Returns requests of all sizes and lengths."""
    draw, shapes = random.Random(seed), list(device.lines)
    return [asked(f"r{number}", draw.choice(shapes), draw.randint(*STEPS)) for number in range(count)]


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("name", DEVICES)
def test_arrivals_wait_no_longer_than_one_after_the_other(name: str, load: float, figures: dict[str, object]) -> None:
    """Mixed sizes and lengths that come at random, at parts of what one at a time could serve."""
    device, ours, theirs = DEVICES[name], 0.0, 0.0
    for seed in SEEDS:
        wanted = requests(device, seed, REQUESTS)
        mean = sum(one_at_a_time(device, each) for each in wanted) / len(wanted)
        draw, at, due = random.Random(seed), 0.0, []
        for each in wanted:
            at += draw.expovariate(load / mean)
            due.append((at, each))
        ours += served(device, due)
        theirs += first_come_first_served(device, due)
    figures["mean_latency_against_first_come_first_served"] = ours / theirs
    assert ours <= theirs


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("name", DEVICES)
def test_mixed_requests_that_come_together(name: str, count: int, figures: dict[str, object]) -> None:
    """All at once, of all sizes and lengths."""
    device, ours, theirs = DEVICES[name], 0.0, 0.0
    for seed in range(8):
        due = [(0.0, each) for each in requests(device, seed, count)]
        ours += served(device, due)
        theirs += first_come_first_served(device, due)
    figures["mean_latency_against_first_come_first_served"] = ours / theirs
    assert ours <= theirs


def equal(name: str, shape: Shape, count: int) -> list[GenerationRequest]:
    """Returns requests that differ in nothing that takes time."""
    return [asked(f"{name}{number}", shape, max(STEPS)) for number in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("row_budget", [2, 4, 8, 16])
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in DEVICES for shape in DEVICES[name].lines])
def test_equal_requests_that_come_together(name: str, shape: Shape, row_budget: int, count: int) -> None:
    """However little a batch gains, once that is known and after a pause; but all texts are encoded first."""
    device = replace(DEVICES[name], row_budget=row_budget)
    world, due = world_of(device), [(0.0, each) for each in equal("r", shape, count)]
    served(device, [(0.0, each) for each in equal("learned-", shape, count)], world)
    world.clock.sleep(1000)  # so that nothing says that more will come
    assert served(device, due, world) <= first_come_first_served(device, due) + (count - 1) * device.text + 1e-9


@pytest.mark.parametrize("count", [2, 3, 4])
def test_tenants_that_take_turns_share(count: int) -> None:
    """They wait for each other in any case, so none of them gains by a batch that is cut."""
    device = replace(DEVICES["H200"], row_budget=2 * count)
    requests = equal("r", device.native, count)
    due = [(0.0, replace(each, tenant=each.request_id)) for each in requests]
    together = device.text * count + device.pixels[device.native] * count
    steps = max(STEPS) + refined(max(STEPS))
    assert served(device, due) <= together + 1.02 * steps * device.seconds(Stage.BASE, device.native, 2 * count)


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8, 0.95])
def test_equal_arrivals(load: float, figures: dict[str, object]) -> None:
    """Large requests, by which a batch gains least, that come at random."""
    device, ours, theirs = DEVICES["H200"], 0.0, 0.0
    for seed in SEEDS:
        draw, at, due = random.Random(seed), 0.0, []
        for each in equal("r", device.native, REQUESTS):
            at += draw.expovariate(load / one_at_a_time(device, each))
            due.append((at, each))
        ours += served(device, due)
        theirs += first_come_first_served(device, due)
    figures["mean_latency_against_first_come_first_served"] = ours / theirs
    assert ours <= theirs + device.text * REQUESTS
