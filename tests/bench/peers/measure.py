"""Visits to the systems, one at a time: every load of a visit, and what came of it, as JSON-able records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from bench.disturbance import Meter
from bench.peers import drive, ledger, plan, systems
from bench.peers.asks import Ask, asks
from bench.peers.figures import throughput
from bench.sameness import DifferentImagesError, pixels

CALIBRATION: Final = {True: (8, 8), False: (16, 8)}
"""Requests and callers of the closed loop that a capacity is measured with: mixed and equal ones."""
_LEVELS: Final = 1
"""Largest difference of a pixel's colour, of 255, between two systems' images of the same request."""

Say = Callable[[str], None]


async def calibrate(system: systems.System, directory: Path, counts: Mapping[bool, tuple[int, int]]) -> dict[str, Any]:
    """Returns a peer's capacities in images per second, and an image to compare."""
    async with systems.running(system, directory) as live:
        file = await live.fence(systems.WARM)
        record: dict[str, Any] = {"system": system.name, "pixels": pixels(file).hex(), "capacity": {}}
        for mixed, (count, in_flight) in counts.items():
            made = asks(f"calibration-{'mixed' if mixed else 'equal'}", count, mixed=mixed, seed=0)
            heard = await drive.closed(live.caller, made, in_flight)
            record["capacity"][str(mixed)] = _throughput(heard)
        return record


async def visit(
    system: systems.System,
    directory: Path,
    block: int,
    *,
    capacities: Mapping[bool, float],
    scale: float,
    loads: tuple[plan.Load, ...],
    reference: str,
    say: Say,
) -> list[dict[str, Any]]:
    """Starts a system, puts every load on it and stops it; returns a record for each load.

    Raises SystemFailedError, and DifferentImagesError unless its image is the reference, within a level.
    """
    records = []
    began = time.monotonic()
    async with systems.running(system, directory) as live:
        started = time.monotonic() - began
        check_same(system.name, await live.fence(systems.WARM), reference)
        await _warm_up(live)
        memory = live.memory_bytes()
        for load in loads:
            made = plan.requests(load, block, capacity=capacities[load.mixed], scale=scale)
            record = await _block(live, load, made)
            record |= {"system": system.name, "block": block, "started": started, "memory": memory}
            records.append(record)
            say(f"  {load.name}: {len(made)} requests, {record['throughput']:.2f} images/s")
    return records


def check_same(name: str, file: bytes, reference: str) -> None:
    """Raises DifferentImagesError if an image is more than a level away from the reference's pixels, in hex."""
    ours, theirs = pixels(file), bytes.fromhex(reference)
    if len(ours) != len(theirs) or max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > _LEVELS:
        raise DifferentImagesError(f"{name} made another image than the first system")


async def _warm_up(live: systems.Live) -> None:
    """Lets the system see both sizes and a full batch once."""
    await drive.closed(live.caller, asks("warm-up", 4, mixed=False, seed=0), 4)
    await drive.closed(live.caller, asks("warm-up-mixed", 2, mixed=True, seed=0), 2)


async def _block(live: systems.Live, load: plan.Load, made: list[Ask]) -> dict[str, Any]:
    watch = Meter(live.pids())
    before = len(live.entries())
    if load.in_flight:
        heard = await drive.closed(live.caller, made, load.in_flight)
    else:
        heard = await drive.arrivals(live.caller, made)
    others = watch.others()
    await live.fence(systems.WARM)  # what is still computed for nobody ends before the next load begins
    entries = live.entries()[before:]
    left = {each.key: each.left for each in heard if each.left is not None}
    keys = [ask.key for ask in made]
    return {
        "load": load.name,
        "heard": [each.to_json() for each in heard],
        "throughput": _throughput(heard),
        "device_seconds": ledger.device_seconds(entries, keys),
        "wasted_seconds": ledger.wasted_seconds(entries, left),
        "mean_batch": fmean(len(entry.keys) for entry in entries) if entries else 0.0,
        "failures": systems.failures(heard),
        "others": others,
    }


def _throughput(heard: list[drive.Heard]) -> float:
    ended = [each.ended for each in heard if each.ended is not None]
    return throughput([each.sent for each in heard], ended) if ended else 0.0
