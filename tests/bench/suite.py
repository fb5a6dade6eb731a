"""The comparisons of the three arms: which loads, how often, and what is hoped for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

from bench.arms import Arm, Arms, Work
from bench.loads import Paired, closed_loop, exhaust, in_turns, one_by_one, requests, together
from bench.rows import Row, row
from bench.sameness import DifferentImagesError, pixels

PROMPT: Final = "a large red circle on a blue background"
SIDES: Final = (64, 128)
"""Pixels; latents of 8x8 and 16x16."""
_A_COUNTED: Final = 4
"""Completions of a closed-loop sample of arm A. It works off one request at a time, so more would tell no more."""
_SINGLE_REQUESTS: Final = 2


@dataclass(kw_only=True, frozen=True, slots=True)
class Effort:
    """How much is measured."""

    pairs: int = 10
    in_flight: tuple[tuple[int, tuple[int, ...]], ...] = ((64, (1, 2, 4, 8, 16)), (128, (1, 4, 8)))
    """Numbers of callers for each side."""
    arrivals: tuple[int, ...] = (2, 8)
    """Numbers of requests that arrive together."""
    mixed: int = 24
    """Requests of a mixed sample; a multiple of the number of mixed steps."""
    mixed_steps: tuple[tuple[int, int], ...] = ((20, 10), (50, 30), (27, 14), (35, 20))
    """Base and refiner steps of the requests of a mixed load, in this order again and again."""
    steps: tuple[int, int] = (20, 10)
    """Base and refiner steps of the other loads."""


QUICK: Final = Effort(
    pairs=1, in_flight=((64, (2,)),), arrivals=(2,), mixed=2, mixed_steps=((4, 2), (6, 3)), steps=(4, 2)
)
"""Shows that everything runs; its ratios mean little."""

_THROUGHPUT_GOALS: Final = {(64, 8): "≥ 2.8", (128, 8): "≥ 1.5"}


async def compare(arms: Arms, effort: Effort) -> AsyncIterator[Row]:
    """Measures and yields the rows, in order. Raises DifferentImagesError before anything is measured."""
    works = {
        side: Work(prompt=PROMPT, seed=7, side=side, steps=effort.steps[0], refiner_steps=effort.steps[1])
        for side in SIDES
    }
    for work in works.values():
        await _check_same(arms, work)
    for side, work in works.items():
        for arm in (arms.c, arms.b):
            yield await _single(arms, arm, work, effort, goal="≤ 1.00" if arm is arms.c and side == SIDES[0] else "")
    yield await _repeated(arms, works[SIDES[0]], effort)
    for side, counts in effort.in_flight:
        for count in counts:
            yield await _throughput(arms, arms.c, works[side], count, effort)
    for side, counts in effort.in_flight[:1]:
        yield await _throughput(arms, arms.b, works[side], min(counts[-1], 8), effort)
    yield await _mixed(arms, arms.c, works[SIDES[0]], effort)
    for side in SIDES:
        for count in effort.arrivals:
            yield await _arrivals(arms, arms.c, works[side], count, effort)


async def _check_same(arms: Arms, work: Work) -> None:
    """Compares pixels, not files: the arms embed different metadata."""
    seen = {}
    for arm in (arms.a, arms.b, arms.c):
        async with arm.working():
            seen[arm.name] = pixels(await arm.run(work))
    if len(set(seen.values())) > 1:
        raise DifferentImagesError(f"at {work.side} pixels the arms made different images")


async def _single(arms: Arms, arm: Arm, work: Work, effort: Effort, *, goal: str) -> Row:
    works = [replace(work, seed=seed) for seed in range(_SINGLE_REQUESTS)]
    samples = await in_turns(
        lambda: one_by_one(arm, works), lambda: one_by_one(arms.a, works), effort.pairs, arms.meter
    )
    return _row("one request at a time", work, arm, samples, what="latency", unit="ms", scale=1e3, goal=goal)


async def _repeated(arms: Arms, work: Work, effort: Effort) -> Row:
    works = [replace(work, seed=seed) for seed in range(_SINGLE_REQUESTS)]
    samples = await in_turns(
        lambda: one_by_one(arms.c, works, repeated=True),
        lambda: one_by_one(arms.a, works, repeated=True),
        effort.pairs,
        arms.meter,
    )
    return _row(
        "one request at a time, the same prompt again", work, arms.c, samples, what="latency", unit="ms", scale=1e3
    )


async def _throughput(arms: Arms, arm: Arm, work: Work, in_flight: int, effort: Effort) -> Row:
    samples = await in_turns(
        lambda: closed_loop(arm, work, in_flight=in_flight, ramp=in_flight, counted=max(in_flight, _A_COUNTED)),
        lambda: closed_loop(arms.a, work, in_flight=in_flight, ramp=1, counted=_A_COUNTED),
        effort.pairs,
        arms.meter,
    )
    goal = _THROUGHPUT_GOALS.get((work.side, in_flight), "") if arm.name == "C" else ""
    return _row(f"{in_flight} in flight", work, arm, samples, what="throughput", unit="images/s", goal=goal)


async def _mixed(arms: Arms, arm: Arm, work: Work, effort: Effort) -> Row:
    steps = effort.mixed_steps
    works = [
        replace(like, steps=base_steps, refiner_steps=refiner_steps)
        for like, (base_steps, refiner_steps) in zip(requests(work), steps * (effort.mixed // len(steps)), strict=False)
    ]
    samples = await in_turns(
        lambda: exhaust(arm, works, in_flight=8),
        lambda: exhaust(arms.a, works[: len(steps)], in_flight=1),
        effort.pairs,
        arms.meter,
    )
    return _row("8 in flight, 20 to 50 steps", work, arm, samples, what="throughput", unit="images/s")


async def _arrivals(arms: Arms, arm: Arm, work: Work, count: int, effort: Effort) -> Row:
    works = [replace(work, seed=seed) for seed in range(count)]
    samples = await in_turns(lambda: together(arm, works), lambda: together(arms.a, works), effort.pairs, arms.meter)
    name = f"{count} arrive together"
    return _row(name, work, arm, samples, what="mean latency", unit="ms", scale=1e3, goal="≤ 1.00")


def _row(
    name: str, work: Work, arm: Arm, samples: Paired, *, what: str, unit: str, scale: float = 1.0, goal: str = ""
) -> Row:
    latent = work.side // 8
    return row(
        f"{name}, {latent}x{latent} latents",
        what=what,
        arms=f"{arm.name}/A",
        samples=samples,
        unit=unit,
        scale=scale,
        goal=goal,
    )
