"""Quantiles and means of a histogram's buckets, as PromQL computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from imagegen_server.top.snapshot import Samples, by_label, total


@dataclass(kw_only=True, frozen=True, slots=True)
class Distribution:
    """What a histogram observed over some time."""

    buckets: tuple[tuple[float, float], ...]
    """Upper bounds, ascending, infinity last, with how many observations were at most that."""
    sum: float
    """Of all observations, in the histogram's unit."""
    count: float
    """Observations."""

    @property
    def mean(self) -> float | None:
        """The mean observation; None without any."""
        return self.sum / self.count if self.count > 0 else None

    @property
    def bottom(self) -> float:
        """The least bound: what lies at or below it is not told apart."""
        return min((bound for bound, _ in self.buckets), default=math.inf)

    @property
    def top(self) -> float:
        """The greatest finite bound: what lies above is not told apart."""
        return max((bound for bound, _ in self.buckets if math.isfinite(bound)), default=math.inf)

    def quantile(self, q: float) -> float | None:
        """Returns the q-quantile, 0 <= q <= 1, by PromQL's histogram_quantile; None without any observation.

        Observations are taken to lie evenly in their bucket, and the first bucket to begin at 0. A quantile above the
        greatest finite bound is reported as that bound.
        """
        bounds = [bound for bound, _ in self.buckets]
        # scrapes are not atomic: a bucket may have missed what the next lower one saw
        counts = list(accumulate((count for _, count in self.buckets), max))
        if len(bounds) < 2 or not math.isinf(bounds[-1]) or counts[-1] <= 0:
            return None
        rank = q * counts[-1]
        place = next(index for index, count in enumerate(counts) if count >= rank)
        if place == len(bounds) - 1:
            return bounds[-2]
        if place == 0 and bounds[0] <= 0:
            return bounds[0]
        below, start = (counts[place - 1], bounds[place - 1]) if place else (0.0, 0.0)
        here = counts[place] - below
        return start + (bounds[place] - start) * ((rank - below) / here if here else 1.0)


def distribution(samples: Samples, name: str, labels: Mapping[str, str]) -> Distribution | None:
    """Returns the sum of a histogram's series that have these labels; None if there is none."""
    buckets = sorted(
        (float(bound), count) for bound, count in by_label(samples, f"{name}_bucket", "le", labels).items()
    )
    if not buckets:
        return None
    return Distribution(
        buckets=tuple(buckets),
        sum=total(samples, f"{name}_sum", labels) or 0.0,
        count=total(samples, f"{name}_count", labels) or 0.0,
    )
