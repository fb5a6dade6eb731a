"""Numbers as they are written."""

from __future__ import annotations

import pytest

from imagegen_server.top import words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, words.DASH),
        (0, "0 s"),
        (0.00045, "450 µs"),
        (0.0042, "4.2 ms"),
        (0.25, "250 ms"),
        (1.234, "1.23 s"),
        (10.0, "10 s"),
        (45.67, "45.7 s"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (93784, "1 d 2 h"),
    ],
)
def test_durations(value: float | None, expected: str) -> None:
    """In the unit that one would say it in."""
    assert words.seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, words.DASH),
        (0.0, "< 50 ms"),
        (0.05, "< 50 ms"),
        (0.051, "51 ms"),
        (119.0, "1 min 59 s"),
        (120.0, "> 120 s"),
    ],
)
def test_a_duration_at_the_first_or_last_bound_is_told_as_a_bound(value: float | None, expected: str) -> None:
    """A histogram cannot tell what lies below its first bound or above its last."""
    assert words.told_apart(value, 0.05, 120.0) == expected


def test_without_bounds_a_duration_is_told_as_it_is() -> None:
    """There was no histogram to read them from."""
    assert words.told_apart(0.0014, None, None) == "1.4 ms"


@pytest.mark.parametrize(("bound", "expected"), [(0.001, "< 1 ms"), (0.005, "< 5 ms"), (2.5, "< 2.5 s")])
def test_a_bound_is_written_without_zeros(bound: float, expected: str) -> None:
    """It is exact, where a quantile is an estimate."""
    assert words.told_apart(bound / 2, bound, 120.0) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, words.DASH), (0, "0"), (3, "3"), (24.62, "24.6"), (1234.5, "1,234"), (2_500_000, "2.5M")],
)
def test_numbers(value: float | None, expected: str) -> None:
    """Short, with what matters."""
    assert words.number(value) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"), [(None, words.DASH), (0, "0 %"), (0.004, "0.4 %"), (0.5, "50 %"), (1.2, "120 %")]
)
def test_shares(ratio: float | None, expected: str) -> None:
    """A small share is not rounded to nothing."""
    assert words.percent(ratio) == expected


@pytest.mark.parametrize(
    ("ratio", "filled"), [(None, ""), (0.0, ""), (0.05, "╸"), (0.5, "━━━━━"), (1.0, "━" * 10), (3.0, "━" * 10)]
)
def test_bars(ratio: float | None, filled: str) -> None:
    """In halves of a character, and never longer than the bar."""
    assert words.bar(ratio, 10) == filled


def test_a_share_of_nothing_is_unknown() -> None:
    """No division by 0, and none by what is not known."""
    assert words.ratio_of(3, 4) == 0.75
    assert words.ratio_of(3, 0) is None
    assert words.ratio_of(None, 4) is None
