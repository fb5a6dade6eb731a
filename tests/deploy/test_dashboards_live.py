"""The dashboards on an idle server in a real Prometheus: nothing is NaN, states are shown, pictures can be drawn."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dashboards import rendered
from imagegen_server.observe.prometheus import Prometheus
from support.live_server import live_server
from support.prometheus import JOB, prometheus
from support.promtool import program
from support.waiting import eventually

pytestmark = pytest.mark.slow

DRAW = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "draw.py"
SCRAPES = 5
QUERIES = [query for dashboard in rendered.dashboards() for query in rendered.queries(dashboard)]
ANSWERED_WHEN_IDLE = {"stat", "state-timeline", "table", "heatmap", rendered.VARIABLE}
NEEDS_TRAFFIC = {"Duration p95", "First progress p95", "Energy per image"}
"""Numbers that have no value without a generation."""
NEEDS_TLS = {"Certificate ends in"}
ALARMING = {"red", "orange"}


@dataclass(kw_only=True, frozen=True)
class Idle:
    """A Prometheus that has scraped an idle server for some seconds."""

    prometheus: Prometheus
    end: float
    """Unix time."""


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idle]:
    program("prometheus")
    with live_server(tmp_path_factory.mktemp("server"), "--gpu-script", json.dumps({"utilization": 0})) as server:
        directory = tmp_path_factory.mktemp("prometheus")
        with prometheus(directory, f"127.0.0.1:{server.metrics_port}") as watching:
            count = f"count_over_time(imagegen_gpu_health[10m]) >= {SCRAPES}"
            eventually(lambda: bool(watching.instant(count)), "the server was not scraped")
            yield Idle(prometheus=watching, end=time.time())


def _expr(query: rendered.PanelQuery) -> str:
    return rendered.bound(query.expr, job=JOB, rate_interval="1m", range_="10m")


def test_nothing_is_nan_without_traffic(idle: Idle) -> None:
    """A ratio or quantile of nothing is 0 or absent, never NaN; no query is refused."""
    wrong = []
    for query in QUERIES:
        for series in idle.prometheus.instant(_expr(query), idle.end):
            wrong += [(query.title, value) for _, value in series.points if not math.isfinite(value)]
    assert wrong == []


def test_what_has_a_state_shows_it_without_traffic(idle: Idle) -> None:
    """An operator who looks at an idle server sees numbers and states, not empty panels."""
    asked = [query for query in QUERIES if query.type in ANSWERED_WHEN_IDLE and query.title not in NEEDS_TLS]
    empty = {query.title for query in asked if not idle.prometheus.instant(_expr(query), idle.end)}
    assert empty == NEEDS_TRAFFIC


def test_an_idle_server_looks_well(idle: Idle) -> None:
    """Each number on a coloured background has the colour for "all is well"."""
    wrong = []
    for dashboard in rendered.dashboards():
        colors = {(row, panel["title"]): panel["fieldConfig"]["defaults"] for row, panel in rendered.panels(dashboard)}
        for query in rendered.queries(dashboard):
            if query.type == "stat":
                defaults = colors[query.row, query.title]
                found = idle.prometheus.instant(_expr(query), idle.end)
                wrong += [
                    (query.title, series.points)
                    for series in found
                    if _color(series.points[0][1], defaults) in ALARMING
                ]
    assert wrong == []


def _color(value: float, defaults: Mapping[str, Any]) -> str:
    """Returns the colour that a panel's field defaults give a value."""
    for mapping in defaults.get("mappings", ()):
        if f"{value:g}" in mapping["options"]:
            return str(mapping["options"][f"{value:g}"]["color"])
    steps = [(step.get("value"), step["color"]) for step in defaults["thresholds"]["steps"]]
    return str([color for least, color in steps if least is None or value >= least][-1])


def test_every_row_can_be_drawn(idle: Idle, tmp_path: Path) -> None:
    """draw.py makes one picture for each row, all of them together small enough for a repository."""
    command = [sys.executable, str(DRAW), "--prometheus", idle.prometheus.url, "--minutes", "0.2", "--scrape", "1"]
    subprocess.run([*command, "--end", str(idle.end), "--output", str(tmp_path)], check=True, stdout=subprocess.DEVNULL)
    rows = {(dashboard.stem, row) for dashboard in rendered.dashboards() for row, _ in rendered.panels(dashboard)}
    pictures = sorted(tmp_path.iterdir())
    assert len(pictures) == len(rows)
    assert sum(picture.stat().st_size for picture in pictures) < 1_500_000
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width > 1000
            assert len(image.convert("L").getcolors(256) or ()) > 10, f"{picture.name} shows nothing"
