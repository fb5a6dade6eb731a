"""Loads put on an arm, and pairs of samples of two arms taken in turns. Times in seconds."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from bench.arms import Arm, Work
from bench.disturbance import Meter
from bench.ratios import orders, rate, undisturbed

Sample = Callable[[], Awaitable[float]]
QUIET: Final = 0.1
"""Cores that other programs may keep busy during a pair that counts as undisturbed."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Paired:
    """Samples of two arms; those with the same index were taken one right after the other."""

    first: list[float]
    second: list[float]
    others: float
    """Cores that other programs kept busy during the pair in which they took most."""


async def in_turns(first: Sample, second: Sample, pairs: int, meter: Callable[[], Meter]) -> Paired:
    """Samples both in the order A B B A, after one pair that is discarded as warm-up.

    Pairs are taken until `pairs` of them were undisturbed by other programs, but at most twice as many; the `pairs`
    that were disturbed least are kept. What was measured plays no part in that choice.
    """
    await first()
    await second()
    taken: list[tuple[float, float]] = []
    disturbance: list[float] = []
    for first_goes_first in orders(2 * pairs):
        watch = meter()
        if first_goes_first:
            one, other = await first(), await second()
        else:
            other, one = await second(), await first()
        taken.append((one, other))
        disturbance.append(watch.others())
        if len(undisturbed(disturbance, pairs, limit=QUIET)) == pairs:
            break
    kept = undisturbed(disturbance, pairs, limit=float("inf"))
    return Paired(
        first=[taken[index][0] for index in kept],
        second=[taken[index][1] for index in kept],
        others=max(disturbance[index] for index in kept),
    )


_NUMBERS: Final = itertools.count()


def unheard(work: Work) -> Work:
    """Returns the request with a prompt that no request had before: the service remembers what it has encoded."""
    return replace(work, prompt=f"{work.prompt}, number {next(_NUMBERS)}")


def requests(like: Work) -> Iterator[Work]:
    """Yields requests that differ in their seeds."""
    for seed in itertools.count():
        yield replace(like, seed=seed)


async def one_by_one(arm: Arm, works: Sequence[Work], *, repeated: bool = False) -> float:
    """Returns the mean latency of requests that each wait for the one before.

    Their prompts are new ones, as in every other load, unless `repeated`.
    """
    async with arm.working():
        began = time.perf_counter()
        for work in works:
            await arm.run(work if repeated else unheard(work))
        return (time.perf_counter() - began) / len(works)


async def together(arm: Arm, works: Sequence[Work]) -> float:
    """Returns the mean latency of requests that arrive at the same instant."""

    async def latency(work: Work) -> float:
        await arm.run(unheard(work))
        return time.perf_counter() - began

    async with arm.working():
        began = time.perf_counter()
        return fmean(await asyncio.gather(*(latency(work) for work in works)))


async def closed_loop(arm: Arm, like: Work, *, in_flight: int, ramp: int, counted: int) -> float:
    """Returns images per second with `in_flight` callers that ask again at once.

    The first `ramp` completions are not counted; requests that run at the end are given up.
    """
    works, ended, enough = requests(like), list[float](), asyncio.Event()

    async def caller() -> None:
        while True:
            await arm.run(unheard(next(works)))
            ended.append(time.perf_counter())
            if len(ended) >= ramp + counted:
                enough.set()

    async with arm.working():
        callers = [asyncio.create_task(caller()) for _ in range(in_flight)]
        over = asyncio.create_task(enough.wait())
        try:
            done, _ = await asyncio.wait([over, *callers], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (over, *callers):
                task.cancel()
            await asyncio.gather(over, *callers, return_exceptions=True)
    return rate(ended[: ramp + counted], ramp=ramp)


async def exhaust(arm: Arm, works: Sequence[Work], *, in_flight: int) -> float:
    """Returns images per second with `in_flight` callers, from the first request of a list to the end of its last."""
    left = iter(works)

    async def caller() -> None:
        for work in left:
            await arm.run(unheard(work))

    async with arm.working():
        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return len(works) / (time.perf_counter() - began)
