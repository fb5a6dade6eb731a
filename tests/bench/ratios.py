"""Paired ratios and how sure one may be of them. Pure: numbers in, numbers out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

RESAMPLES: Final = 4000
"""Bootstrap resamples; the end points of the interval move by well under 1 % from there on."""
CONFIDENCE: Final = 0.95


@dataclass(kw_only=True, frozen=True, slots=True)
class PairedRatio:
    """The median of paired ratios, with a bootstrap interval of that median."""

    median: float
    low: float
    high: float
    pairs: int


def orders(pairs: int) -> Iterator[bool]:
    """Yields for each pair whether the first arm goes first: A B, B A, A B, … which reads A B B A A B B A.

    A drift of the machine's speed that is linear in time cancels out of two neighbouring pairs.
    """
    for pair in range(pairs):
        yield pair % 2 == 0


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0) -> PairedRatio:
    """Returns the median of the pairs' ratios with its percentile bootstrap interval at 95 %.

    B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979. The resampling is
    seeded: equal samples give equal intervals. Raises ValueError for no pairs, unequal lengths, or a number that
    is not above 0.
    """
    if not numerators or len(numerators) != len(denominators):
        raise ValueError(f"need as many numerators as denominators, got {len(numerators)} and {len(denominators)}")
    if min(*numerators, *denominators) <= 0:
        raise ValueError("ratios are taken of numbers above 0")
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    tail = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return PairedRatio(median=median(ratios), low=medians[tail], high=medians[-1 - tail], pairs=len(ratios))


def undisturbed(disturbance: Sequence[float], count: int, *, limit: float) -> list[int]:
    """Returns the indices, rising, of the `count` least disturbed among those below `limit`; fewer if there are."""
    quietest = sorted(range(len(disturbance)), key=lambda index: disturbance[index])
    return sorted(index for index in quietest[:count] if disturbance[index] < limit)


def rate(ended: Sequence[float], *, ramp: int) -> float:
    """Returns completions per second after the first `ramp` of them, from the instants at which requests ended.

    Raises ValueError unless something ended after the ramp.
    """
    if not 1 <= ramp < len(ended):
        raise ValueError(f"{len(ended)} completions do not outlast a ramp of {ramp}")
    instants = sorted(ended)
    return (len(instants) - ramp) / (instants[-1] - instants[ramp - 1])
