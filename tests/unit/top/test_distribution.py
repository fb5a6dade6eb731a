"""Quantiles and means against values worked out by hand, and against Prometheus' own rules for the odd cases."""

from __future__ import annotations

import math

import pytest

from imagegen_server.top.distribution import Distribution, distribution
from imagegen_server.top.snapshot import parse
from support.exposition import Exposition


def of(*buckets: tuple[float, float], total: float = 0.0) -> Distribution:
    return Distribution(buckets=buckets, sum=total, count=buckets[-1][1])


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.5, 0.5 + 1.5 * (18 - 10) / 20),  # rank 18 of 36 is the 8th of 20 between 0.5 and 2
        (0.95, 2 + 3 * (34.2 - 30) / 6),  # rank 34.2 is 4.2 into the last 6, between 2 and 5
        (0.1, 0.5 * 3.6 / 10),  # the first bucket begins at 0
        (0.0, 0.0),
        (1.0, 5.0),
    ],
)
def test_quantiles_lie_evenly_in_their_bucket(q: float, expected: float) -> None:
    """A quantile is interpolated between the bounds of its bucket."""
    seen = of((0.5, 10), (2, 30), (5, 36), (math.inf, 36))
    assert seen.quantile(q) == pytest.approx(expected)


def test_a_quantile_above_the_last_bound_is_that_bound() -> None:
    """What lies above the greatest finite bound is not told apart."""
    seen = of((1, 1), (120, 2), (math.inf, 10))
    assert seen.quantile(0.95) == 120
    assert seen.top == 120


def test_without_observations_there_is_no_quantile_and_no_mean() -> None:
    """Nothing observed is nothing known, not 0."""
    seen = of((1, 0), (math.inf, 0))
    assert seen.quantile(0.5) is None
    assert seen.mean is None


def test_without_an_infinite_bucket_there_is_no_quantile() -> None:
    """As in PromQL: such a histogram is not whole."""
    assert of((1, 1), (2, 3)).quantile(0.5) is None


def test_a_bucket_that_lags_behind_counts_at_least_what_lies_below() -> None:
    """Scrapes are not atomic; a cumulative count that falls is taken as the one before."""
    seen = of((1, 10), (2, 9), (4, 20), (math.inf, 20))
    assert seen.quantile(0.75) == pytest.approx(2 + 2 * (15 - 10) / 10)


def test_the_mean_is_the_sum_by_the_count() -> None:
    """Five turns with 22 rows had 4.4 rows each."""
    assert of((2, 1), (8, 5), (math.inf, 5), total=22).mean == pytest.approx(4.4)


def test_series_are_added_up_before_the_quantile() -> None:
    """A distribution over two models is that of all their observations."""
    made = Exposition()
    made.histogram("h_seconds", {1: 4, 2: 0}, 2.0, model="a").histogram("h_seconds", {1: 0, 2: 4}, 6.0, model="b")
    samples = parse(made.text(), 0.0).counters
    both, one = distribution(samples, "h_seconds", {}), distribution(samples, "h_seconds", {"model": "b"})
    assert both is not None
    assert (both.count, both.sum, both.quantile(0.75)) == (8, 8.0, 1.5)
    assert one is not None
    assert one.quantile(0.5) == 1.5
    assert distribution(samples, "h_seconds", {"model": "c"}) is None
