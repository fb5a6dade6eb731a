"""Requests that arrive as they like: the engine against diffusers' pipelines, first come first served."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from bench.arms import Arm, DiffusersArm, EngineArm, TorchThread, Work
from bench.peers.asks import Ask, poisson
from bench.peers.drive import Heard, arrivals, closed
from gpu.figures import Figures
from gpu.site import Site, load, prepared
from imagegen_server.engine import Engine
from support.engines import engine_of
from support.pairs import Stock

if TYPE_CHECKING:
    from imagegen_server.models.sdxl_runner import SDXLRunner

LOADS = (0.5, 0.8, 0.95)
"""Parts of what diffusers' pipelines can do."""


@dataclass(frozen=True, slots=True)
class ArmCaller:
    """A caller of an arm."""

    arm: Arm

    async def ask(self, ask: Ask, progressed: Callable[[], None]) -> bytes:
        """Returns the file; nothing is heard before."""
        del progressed
        work = Work(prompt=ask.prompt, seed=ask.seed, side=ask.side, steps=ask.steps, refiner_steps=ask.refiner_steps)
        return await self.arm.run(work)


def test_mixed_arrivals_against_first_come_first_served(site: Site, measured: Figures) -> None:
    """Two sizes and many step counts at Poisson instants, the same for both; every image arrives."""
    asyncio.run(_measure(site, measured))


async def _measure(site: Site, measured: Figures) -> None:
    async with AsyncExitStack() as stack:
        thread = TorchThread()
        stack.callback(thread.close)
        pair = await thread.do(lambda: load(site, site.half))
        runner = await thread.do(lambda: prepared(pair))
        stock = Stock(pair.base, pair.refiner, pair.base.scheduler.config, pair.refiner.scheduler.config)
        a, b = DiffusersArm(thread, stock), EngineArm(thread, _engine(runner))
        asks = _asks(site, site.arrivals)
        await _closed(b, _asks(site, site.arrivals // 2 + 1, seed=1), in_flight=4)  # chooses kernels, captures graphs
        await _closed(a, asks[:1], in_flight=1)
        alone = await _closed(a, asks, in_flight=1)
        capacity = len(asks) / sum(_latencies(alone))
        for part in LOADS:
            fresh = [replace(ask, prompt=f"{ask.prompt}, {part}") for ask in asks]  # which nobody remembers
            placed = poisson(fresh, rate=part * capacity, seed=0)
            fifo, ours = await _arrive(a, placed), await _arrive(b, placed)
            measured.add(
                f"arrivals at parts of diffusers' {capacity:.2f} images/s: {site.sides[0]} and {site.native} pixels, "
                f"{site.arrival_steps[0]} to {site.arrival_steps[1]} base steps, {site.half}",
                load=part,
                requests=len(placed),
                mean_s=fmean(ours),
                diffusers_mean_s=fmean(fifo),
                mean_ratio=fmean(ours) / fmean(fifo),
                slowest_s=max(ours),
                diffusers_slowest_s=max(fifo),
                slowest_ratio=max(ours) / max(fifo),
            )
        await thread.do(runner.close)


def _engine(runner: SDXLRunner) -> Engine:
    profile = runner.describe().profile
    native_area = (profile.defaults.width // 8) * (profile.defaults.height // 8)
    return engine_of(runner, row_budget=profile.row_budget, native_area=native_area)


def _asks(site: Site, count: int, seed: int = 0) -> list[Ask]:
    draw = random.Random(seed)
    return [
        Ask(
            key=f"{seed}-{number}",
            prompt=f"a red circle, number {seed} {number}",
            seed=number,
            side=draw.choice((site.sides[0], site.native)),
            steps=draw.randint(*site.arrival_steps),
        )
        for number in range(count)
    ]


async def _closed(arm: Arm, asks: Sequence[Ask], *, in_flight: int) -> list[Heard]:
    async with arm.working():
        return await closed(ArmCaller(arm), asks, in_flight)


async def _arrive(arm: Arm, asks: Sequence[Ask]) -> list[float]:
    async with arm.working():
        return _latencies(await arrivals(ArmCaller(arm), asks))


def _latencies(heard: Sequence[Heard]) -> list[float]:
    """Returns the seconds until each image; every one must have come."""
    assert [one.error for one in heard] == [""] * len(heard)
    found = [one.latency for one in heard if one.latency is not None]
    assert len(found) == len(heard)
    return found
