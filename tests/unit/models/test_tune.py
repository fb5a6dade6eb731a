"""What a tuning chooses of what it measured; measuring is in tests/gpu."""

from __future__ import annotations

import pytest

from imagegen_server.models.evaluation.tune import WORTH, fastest, knee
from imagegen_server.models.evaluation.tuning import Tuning

PLAIN = Tuning(cuda_graphs=False)
GRAPHS = Tuning()
REGIONAL = Tuning(compile="regional", channels_last=True)
FULL = Tuning(compile="full", channels_last=True)


@pytest.mark.parametrize(
    ("timed", "chosen"),
    [
        ([], PLAIN),
        ([(PLAIN, 0.050)], PLAIN),
        ([(PLAIN, 0.050), (GRAPHS, 0.042), (REGIONAL, 0.034), (FULL, 0.032)], FULL),
        ([(PLAIN, 0.050), (GRAPHS, 0.042), (REGIONAL, 0.033), (FULL, 0.033 * WORTH)], REGIONAL),
        ([(PLAIN, 0.050), (GRAPHS, 0.042), (FULL, 0.060)], GRAPHS),
        ([(PLAIN, 0.050), (GRAPHS, 0.049), (REGIONAL, 0.048)], REGIONAL),
    ],
    ids=[
        "nothing ran",
        "one",
        "each is worth it",
        "the last is not",
        "a slower one",
        "against the best, not the one before",
    ],
)
def test_a_candidate_is_chosen_if_it_is_worth_it(timed: list[tuple[Tuning, float]], chosen: Tuning) -> None:
    """At least 3 % faster than the best that is simpler."""
    assert fastest(timed) == chosen


@pytest.mark.parametrize(
    ("rates", "rows"),
    [({}, 2), ({2: 10.0}, 2), ({2: 10.0, 4: 10.4, 8: 10.2}, 2), ({2: 5.0, 4: 9.0, 8: 15.0, 16: 15.5}, 8)],
)
def test_the_knee_is_the_fewest_rows_that_give_nearly_all(rates: dict[int, float], rows: int) -> None:
    """95 % of the best throughput."""
    assert knee(rates) == rows
