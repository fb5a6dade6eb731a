"""The statistics of the benches."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.ratios import orders, paired_ratio, rate, undisturbed

POSITIVE = st.floats(min_value=1e-3, max_value=1e3)


def test_pairs_are_taken_in_the_order_abba() -> None:
    """Every other pair begins with the other arm."""
    assert list(orders(4)) == [True, False, True, False]


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    """Not the ratio of the medians: a machine that becomes slower halfway does not show."""
    found = paired_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert (found.median, found.low, found.high, found.pairs) == (2.0, 2.0, 2.0, 3)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=20))
def test_the_interval_holds_the_median_and_lies_within_the_ratios(pairs: list[tuple[float, float]]) -> None:
    """low <= median <= high, and neither end is beyond what was seen."""
    above, below = zip(*pairs, strict=True)
    found = paired_ratio(above, below)
    ratios = [a / b for a, b in pairs]
    assert min(ratios) <= found.low <= found.median <= found.high <= max(ratios)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 200 sets of ten noisy pairs with a true median ratio of 1, the interval has it in about 95 %."""
    draw = random.Random(1)
    covered = 0
    for _ in range(200):
        found = paired_ratio([draw.lognormvariate(0, 0.2) for _ in range(10)], [1.0] * 10)
        covered += found.low <= 1.0 <= found.high
    assert 0.90 <= covered / 200 <= 1.0


def test_equal_samples_give_equal_intervals() -> None:
    """The resampling is seeded."""
    samples = ([1.0, 2.0, 4.0, 3.0], [1.0, 1.5, 2.0, 5.0])
    assert paired_ratio(*samples) == paired_ratio(*samples)


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_what_is_no_set_of_pairs_is_refused(above: list[float], below: list[float]) -> None:
    """No pairs, unequal lengths and numbers that are not above 0 raise ValueError."""
    with pytest.raises(ValueError, match=r"numerators|above 0"):
        paired_ratio(above, below)


def test_the_least_disturbed_pairs_are_kept_in_their_order() -> None:
    """Those at or above the limit do not count, and of the others the quietest do."""
    assert undisturbed([0.5, 0.01, 0.2, 0.02, 0.0], 2, limit=0.1) == [1, 4]
    assert undisturbed([0.5, 0.01, 0.2, 0.02, 0.0], 5, limit=0.1) == [1, 3, 4]
    assert undisturbed([0.5, 0.3], 2, limit=float("inf")) == [0, 1]


def test_a_rate_counts_from_the_end_of_the_ramp() -> None:
    """Four completions in the two seconds after the second one are two a second, in whatever order they are listed."""
    assert rate([7.0, 1.0, 5.0, 5.5, 6.5, 6.0], ramp=2) == pytest.approx(2.0)


@pytest.mark.parametrize("ramp", [0, 3])
def test_a_rate_needs_completions_after_its_ramp(ramp: int) -> None:
    """A ramp of none, or of all, raises ValueError."""
    with pytest.raises(ValueError, match="ramp"):
        rate([1.0, 2.0, 3.0], ramp=ramp)
