"""From what was heard to figures, tables and pictures."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from bench.peers import plots, report, systems
from bench.peers.figures import block_ratio, latency_ratio, percentile, throughput
from bench.peers.plan import loads
from bench.peers.summary import best_peer, summary

NAMES = [each.name for each in systems.SYSTEMS]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of many loads would take seconds."""
    monkeypatch.setattr("bench.peers.figures.RESAMPLES", 200)


def record(load: str, system: str, block: int, *, latency: float = 1.0, wasted: float = 0.0) -> dict[str, Any]:
    """Returns a block of ten requests, the last of which takes three times as long."""
    heard = [
        {
            "key": f"{load}-{block}-{n}",
            "sent": float(n),
            "progressed": n + 0.2 if system == "imagegen" else None,
            "ended": n + latency * (3 if n == 9 else 1),
            "left": None,
            "error": "",
        }
        for n in range(10)
    ]
    return {
        "load": load,
        "system": system,
        "block": block,
        "heard": heard,
        "throughput": 1 / latency,
        "device_seconds": 10.0,
        "wasted_seconds": wasted,
        "mean_batch": 1.5,
        "failures": [],
        "memory": 500e6,
        "started": 4.0,
        "others": 0.01,
    }


def records() -> list[dict[str, Any]]:
    """Returns two blocks of every load: ours is twice as fast as the best peer, which is LitServe."""
    latencies = {"imagegen": 1.0, "diffusers": 4.0, "ray": 3.0, "litserve": 2.0}
    return [
        record(load.name, name, block, latency=latency, wasted=0.1 if name == "imagegen" else 4.0)
        for block in (0, 1)
        for name, latency in latencies.items()
        for load in loads()
    ]


def figures(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return summary(made, ours=NAMES[0], peers=NAMES[1:])


STATE = {
    "date": "2026-01-01",
    "machine": {"cores": 2, "processor": "a processor", "system": "Linux", "python": "3.11", "packages": {"ray": "2"}},
    "load": {"before": 0.1, "after": 0.2},
    "plan": {},
    "scale": 1.0,
    "failed": [],
    "calibration": [{"system": "litserve", "capacity": {"True": 1.4, "False": 3.6}}],
}


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    random.Random(0).shuffle(values)
    assert [percentile(values, part) for part in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_throughput_counts_from_the_first_request_to_the_last_image() -> None:
    assert throughput([0.0, 1.0], [2.0, 4.0]) == 0.5
    with pytest.raises(ValueError, match="no images"):
        throughput([0.0], [])


def test_ratios_come_with_intervals_that_hold_the_truth() -> None:
    """Blocks and requests stay paired, so that what both suffered does not count."""
    draw = random.Random(1)
    weather = [draw.uniform(0.5, 2.0) for _ in range(40)]
    ratio = block_ratio([2.0 * w * draw.uniform(0.95, 1.05) for w in weather], weather)
    assert ratio.low <= 2.0 <= ratio.high
    assert ratio.high - ratio.low < 0.1
    ours = {str(n): 0.5 * w for n, w in enumerate(weather)}
    theirs = {str(n): w for n, w in enumerate(weather)} | {"only theirs": 99.0}
    tail = latency_ratio(ours, theirs, 0.99)
    assert (tail.value, tail.low, tail.high, tail.count) == (0.5, 0.5, 0.5, 40)
    with pytest.raises(ValueError, match="pairs"):
        block_ratio([1.0], [])
    with pytest.raises(ValueError, match="both"):
        latency_ratio({"a": 1.0}, {"b": 1.0}, 0.5)


def test_the_summary_compares_with_the_best_peer() -> None:
    first = figures(records())[0]
    assert best_peer(first, "throughput", most=True) == "litserve"
    assert best_peer(first, "p99", most=False) == "litserve"
    assert first["ratios"]["litserve"]["throughput"]["value"] == 2.0
    assert first["ratios"]["litserve"]["p99"]["value"] == pytest.approx(0.5)
    assert first["ratios"]["ray"]["wasted"] == pytest.approx(0.2 / 8.0)
    assert first["systems"]["imagegen"]["first_progress_p50"] == pytest.approx(0.2)
    assert first["systems"]["ray"]["first_progress_p50"] == pytest.approx(3.0)
    assert first["systems"]["ray"]["p99"] == pytest.approx(9.0)


def test_what_is_missing_is_left_out() -> None:
    """A run that was cut short has blocks of some systems only."""
    made = [record(loads()[0].name, "imagegen", 0), record(loads()[0].name, "litserve", 1)]
    (first,) = figures(made)
    assert set(first["systems"]) == {"imagegen", "litserve"}
    assert "throughput" not in first["ratios"]["litserve"]
    assert figures([]) == []
    for some in (figures(made), figures([]), figures(made[1:])):
        assert report.section({**STATE, "failed": ["ray: block 0"]}, some).count("Not measured: ray") == 1
        json.loads(report.to_json(STATE, some))


def test_the_page_has_every_load_and_keeps_its_other_words(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    report.write(page, report.section(STATE, figures(records())))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    for load in loads():
        assert f"| {load.name} |" in text
    assert "| mixed, 16 in flight | throughput | **2.00** | 2.00 to 2.00 | ≥ 2 | LitServe, batching (HTTP) |" in text
    assert "| 0.20 s | **0.025** | ≤ 0.05 |" in text.replace("| 8.00 s | **", "| 0.20 s | **")


def test_pictures_are_svg_for_light_and_dark_and_always_the_same(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = figures(records())
    files = plots.write(tmp_path, made)
    assert len(files) == 2 * len(report.PLOTS)
    first = {path.name: path.read_bytes() for path in files}
    for data in first.values():
        assert ET.fromstring(data).tag.endswith("svg")  # noqa: S314 - our own file
    plots.write(tmp_path, made)
    assert {path.name: path.read_bytes() for path in files} == first
    text = report.section(STATE, made)
    assert all(f"images/benchmarks/{path.name}" in text for path in files)
