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


def test_a_duration_at_the_last_bound_may_be_longer() -> None:
    """A histogram cannot tell how much."""
    assert words.seconds(120.0, 120.0) == ">120 s"
    assert words.seconds(119.0, 120.0) == "1 min 59 s"


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
