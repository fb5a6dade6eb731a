"""Fails when the service has become slower, against diffusers on the same machine, than the committed figures say.

    PYTHONPATH=tests python -m bench.gate               about a minute; CI runs it when nothing else runs
    PYTHONPATH=tests python -m bench.gate --slow 0.1    shows that it can fail: each request takes it 0.1 s longer

Two ratios of docs/benchmarks.json are measured again, in turns: one request at a time, and eight in flight, both at
8x8 latents. A figure fails if it has lost more than 15 %, and if chance does not explain it: the whole 95 % interval
must lie beyond the limit. What fails is measured once more, with more pairs, before it counts. Exit status 1 if it
fails again, unless other machines on the same host took the cores meanwhile.

How much of diffusers' time is Python, which the service saves, depends on the processor. On one of another name than
that of the committed figures 40 % may be lost, which the output says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from bench import machine
from bench.arms import Arm, Work, open_arms
from bench.loads import closed_loop, one_by_one
from bench.ratios import PairedRatio, orders, paired_ratio
from bench.say import say
from bench.suite import PROMPT, SIDES

ROOT = Path(__file__).resolve().parents[2]

LOSS: Final = 0.15
"""What a figure may lose on the processor of the committed figures."""
LOSS_ELSEWHERE: Final = 0.4
"""What it may lose on another."""
PAIRS: Final = 8
LEAST_PAIRS: Final = 3
SECONDS: Final = 14.0
"""After which a figure is not given another pair, once it has the least."""
AGAIN: Final = 1.5
"""How much more time and how many more pairs a second look gets."""
MOST_STOLEN: Final = 0.05
"""Part of the cores' time that a hypervisor may take; beyond it a loss is the machine's as likely as the service's."""
MOST_LATENCY: Final = 1.0
"""Goal of one request at a time, C/A."""
LEAST_THROUGHPUT: Final = 2.8
"""Goal of eight in flight, C/A."""
_IN_FLIGHT: Final = 8

Sample = Callable[[], Awaitable[float]]
Say = Callable[[str], None]


@dataclass(kw_only=True, frozen=True, slots=True)
class Figure:
    """A ratio that must not get worse."""

    name: str
    """Of its row in the committed figures."""
    what: str
    higher_is_better: bool
    ours: Sample
    theirs: Sample
    goal: float | None = None
    """What has to be reached on every processor."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Verdict:
    """What became of a figure."""

    ratio: PairedRatio
    committed: float
    limit: float
    failed: bool


def judge(
    ratio: PairedRatio, committed: float, *, higher_is_better: bool, goal: float | None = None, loss: float = LOSS
) -> Verdict:
    """Returns whether a ratio has lost more than `loss`, or misses its goal: its whole interval does."""
    limit = committed * (1 - loss) if higher_is_better else committed * (1 + loss)
    if goal is not None:
        limit = max(limit, goal) if higher_is_better else min(limit, goal)
    failed = ratio.high < limit if higher_is_better else ratio.low > limit
    return Verdict(ratio=ratio, committed=committed, limit=limit, failed=failed)


async def check(
    figures: Sequence[Figure],
    committed: dict[tuple[str, str], float],
    say: Say,
    *,
    seconds: float = SECONDS,
    loss: float = LOSS,
) -> bool:
    """Measures every figure, those that fail twice; returns whether none lost more than `loss` twice.

    Raises KeyError for a figure that the committed ones lack.
    """
    good = True
    for figure in figures:
        verdict = await _measured(figure, committed[figure.name, figure.what], PAIRS, seconds, loss)
        say(_line(figure, verdict))
        if verdict.failed:
            say("  measured again, since that may be chance")
            pairs = round(AGAIN * PAIRS)
            verdict = await _measured(figure, committed[figure.name, figure.what], pairs, AGAIN * seconds, loss)
            say(_line(figure, verdict))
        good = good and not verdict.failed
    return good


async def _measured(figure: Figure, committed: float, pairs: int, seconds: float, loss: float) -> Verdict:
    await figure.ours()
    await figure.theirs()
    ours, theirs, began = [], [], time.monotonic()
    for ours_first in orders(pairs):
        if ours_first:
            ours.append(await figure.ours())
            theirs.append(await figure.theirs())
        else:
            theirs.append(await figure.theirs())
            ours.append(await figure.ours())
        if len(ours) >= LEAST_PAIRS and time.monotonic() - began > seconds:
            break
    return judge(
        paired_ratio(ours, theirs),
        committed,
        higher_is_better=figure.higher_is_better,
        goal=figure.goal,
        loss=loss,
    )


def committed_ratios(record: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Returns the C/A ratios of a JSON that `run.py` wrote, by row and quantity."""
    return {(row["name"], row["what"]): row["ratio"]["median"] for row in record["rows"] if row["arms"] == "C/A"}


def figures(ours: Arm, theirs: Arm) -> tuple[Figure, Figure]:
    """Returns the gate's figures, of the same requests as the committed ones."""
    work = Work(prompt=PROMPT, seed=7, side=SIDES[0], steps=20, refiner_steps=10)
    latents = f"{SIDES[0] // 8}x{SIDES[0] // 8} latents"
    return (
        Figure(
            name=f"one request at a time, {latents}",
            what="latency",
            higher_is_better=False,
            goal=MOST_LATENCY,
            ours=lambda: one_by_one(ours, [work, work]),
            theirs=lambda: one_by_one(theirs, [work, work]),
        ),
        Figure(
            name=f"{_IN_FLIGHT} in flight, {latents}",
            what="throughput",
            higher_is_better=True,
            goal=LEAST_THROUGHPUT,
            ours=lambda: closed_loop(ours, work, in_flight=_IN_FLIGHT, ramp=_IN_FLIGHT, counted=_IN_FLIGHT),
            theirs=lambda: closed_loop(theirs, work, in_flight=_IN_FLIGHT, ramp=1, counted=4),
        ),
    )


class Slowed:
    """An arm whose every request takes longer: what the gate is to notice."""

    def __init__(self, arm: Arm, seconds: float) -> None:
        self.name = arm.name
        self._arm = arm
        self._seconds = seconds

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """See the protocol."""
        async with self._arm.working():
            yield

    async def run(self, work: Work) -> bytes:
        """See the protocol."""
        file = await self._arm.run(work)
        await asyncio.sleep(self._seconds)
        return file


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", type=float, default=0.0, help="seconds that each request of the service is held up")
    parser.add_argument("--committed", type=Path, default=ROOT / "docs" / "benchmarks.json", help="figures to keep up")
    options = parser.parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    record = json.loads(options.committed.read_text(encoding="utf-8"))
    here, there = machine.describe(), record["machine"]
    cores, loss = here["cores"], allowed_loss(here, there)
    if cores != there["cores"]:
        say(f"the committed figures are from {there['cores']} cores, and here are {cores}: compare with care")
    if loss != LOSS:
        say(f"the committed figures are from {there['processor']}, here is {here['processor']}: {loss:.0%} may be lost")
    began, before = time.monotonic(), _stolen_seconds()
    good = asyncio.run(_run(committed_ratios(record), options.slow, loss))
    stolen = (_stolen_seconds() - before) / ((time.monotonic() - began) * cores)
    status, text = conclude(good=good, stolen=stolen, loss=loss)
    say(text)
    return status


def allowed_loss(here: Mapping[str, Any], there: Mapping[str, Any]) -> float:
    """Returns what a figure may lose on a machine against figures from another; both as `machine.describe` says."""
    return LOSS if here["processor"] == there["processor"] else LOSS_ELSEWHERE


def conclude(*, good: bool, stolen: float, loss: float = LOSS) -> tuple[int, str]:
    """Returns the exit status and what it means; `stolen` is the part of all cores' time that a hypervisor took."""
    if good:
        return 0, "the gate is passed"
    if stolen > MOST_STOLEN:
        return 0, f"not judged: other machines took {stolen:.0%} of the cores meanwhile, and a loss may be theirs"
    return 1, f"the service has lost more than {loss:.0%} against the committed figures, or misses a goal"


def _stolen_seconds() -> float:
    """Returns the seconds of all cores together that a hypervisor gave to others; 0 where nobody tells."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


async def _run(committed: dict[tuple[str, str], float], slow: float, loss: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="imagegen-gate-") as directory:
        async with open_arms(Path(directory)) as arms:
            ours = Slowed(arms.c, slow) if slow else arms.c
            return await check(figures(ours, arms.a), committed, say, loss=loss)


def _line(figure: Figure, verdict: Verdict) -> str:
    ratio, side = verdict.ratio, "at least" if figure.higher_is_better else "at most"
    measured = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}, {ratio.pairs} pairs)"
    limit = f"committed {verdict.committed:.2f}, {side} {verdict.limit:.2f}"
    return f"{figure.name}: {figure.what} C/A {measured}, {limit}: {'FAILED' if verdict.failed else 'good'}"


if __name__ == "__main__":
    sys.exit(main())
