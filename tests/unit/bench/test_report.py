"""The tables of the benches, and their place in the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.loads import Paired
from bench.overhead import Overhead
from bench.report import BEGIN, END, MarkersError, replaced, section, to_json
from bench.rows import row

ROW = row(
    "8 in flight",
    what="throughput",
    arms="C/A",
    samples=Paired(first=[6.0, 9.0], second=[2.0, 3.0], others=0.04),
    unit="images/s",
    goal="≥ 2.5",
)
OVERHEAD = Overhead(jobs=8, observed=True, turn_ms=0.16)
RECORD = {
    "date": "2025-01-01",
    "machine": {
        "processor": "Abacus",
        "cores": 2,
        "system": "Linux 6",
        "python": "3.11",
        "packages": {"imagegen": "0.1.0", "torch": "2.6"},
    },
    "torch_threads": 2,
    "server": {"start_seconds": 4.0, "idle_rss_bytes": 5e8, "starts": 3},
    "load": {"before": 0.1, "after": 2.0},
}


def test_a_row_shows_ratio_goal_and_medians() -> None:
    """The ratio is that of the pairs, the medians are those of each arm."""
    text = section(RECORD, [ROW], [OVERHEAD])
    assert "| 8 in flight | throughput | C/A | **3.00** | 3.00 to 3.00 | ≥ 2.5 | 7.5 / 2.5 images/s |" in text
    assert "| 8 | on | 0.160 | 0.020 |" in text


def test_the_conditions_are_stated() -> None:
    """Machine, versions, threads, load, pairs and disturbance come before the tables."""
    conditions = section(RECORD, [ROW], [OVERHEAD]).splitlines()[0]
    for part in ("2 cores of Abacus", "torch 2.6", "2 torch threads", "0.1 before", "2 pairs", "0.04 cores"):
        assert part in conditions


def test_the_json_has_every_figure() -> None:
    """Rows with their intervals and units, and the engine's overhead, next to the record."""
    whole = json.loads(to_json(RECORD, [ROW], [OVERHEAD]))
    assert whole["machine"]["processor"] == "Abacus"
    assert whole["rows"][0]["ratio"] == {"median": 3.0, "low": 3.0, "high": 3.0, "pairs": 2}
    assert whole["engine_overhead"][0]["step_ms"] == pytest.approx(0.02)


def test_only_what_is_between_the_markers_is_replaced() -> None:
    """Replacing twice gives the same page as replacing once."""
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    once = replaced(page, "new")
    assert once == f"above\n{BEGIN}\nnew\n{END}\nbelow\n"
    assert replaced(once, "new") == once


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_one_pair_of_markers_is_left_alone(page: str) -> None:
    """Nothing is guessed: MarkersError."""
    with pytest.raises(MarkersError):
        replaced(page, "new")


def test_the_documentation_has_the_markers() -> None:
    """`make bench` finds its place in docs/benchmarks.md."""
    page = Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md"
    assert "new rows" in replaced(page.read_text(encoding="utf-8"), "new rows")
