"""From what was heard to ratios with intervals. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeVar

from bench.ratios import CONFIDENCE

RESAMPLES: Final = 2000

T = TypeVar("T")


@dataclass(kw_only=True, frozen=True, slots=True)
class Estimate:
    """A figure with its bootstrap interval."""

    value: float
    low: float
    high: float
    count: int
    """Blocks or requests that it rests on."""


def percentile(values: Sequence[float], part: float) -> float:
    """Returns the smallest value that at least `part` of the values do not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    ranked = sorted(values)
    return ranked[max(0, math.ceil(part * len(ranked)) - 1)]


def throughput(sent: Sequence[float], ended: Sequence[float]) -> float:
    """Returns images per second from the first request to the last image. Raises ValueError without an image."""
    if not ended or max(ended) <= min(sent):
        raise ValueError("no images")
    return len(ended) / (max(ended) - min(sent))


def block_ratio(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Estimate:
    """Returns the median of the ratios of paired blocks; the interval is the percentile bootstrap's over pairs.

    Raises ValueError for no pairs, or a number that is not above 0.
    """
    if not ours or len(ours) != len(theirs) or min(*ours, *theirs) <= 0:
        raise ValueError("need pairs of numbers above 0")
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return _bootstrap(ratios, median, seed)


def latency_ratio(ours: Mapping[str, float], theirs: Mapping[str, float], part: float, *, seed: int = 0) -> Estimate:
    """Returns the ratio of two systems' percentiles over the requests that both answered.

    The bootstrap resamples requests: each stays paired with itself, since both got the same at the same instant.
    Raises ValueError if they share none.
    """
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise ValueError("no request was answered by both")

    def ratio(keys: Sequence[str]) -> float:
        return percentile([ours[key] for key in keys], part) / percentile([theirs[key] for key in keys], part)

    return _bootstrap(both, ratio, seed)


def _bootstrap(sample: Sequence[T], statistic: Callable[[Sequence[T]], float], seed: int) -> Estimate:
    draw = random.Random(seed)
    drawn = sorted(statistic(draw.choices(sample, k=len(sample))) for _ in range(RESAMPLES))
    tail = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Estimate(value=statistic(sample), low=drawn[tail], high=drawn[-1 - tail], count=len(sample))
