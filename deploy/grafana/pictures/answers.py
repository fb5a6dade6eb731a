"""What Prometheus answers to the queries of a panel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dashboards.rendered import bound
from imagegen_server.observe.prometheus import Prometheus, Series

_LABEL: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
Values = npt.NDArray[np.float64]


@dataclass(kw_only=True, frozen=True, slots=True)
class Window:
    """The time range that is drawn."""

    start: float
    """Unix time."""
    end: float
    scrape: float
    """Seconds between scrapes."""
    points: int = 240
    """Of a line."""

    @property
    def step(self) -> float:
        """Seconds between two points."""
        return max(self.scrape, (self.end - self.start) / self.points)

    @property
    def times(self) -> Values:
        """Seconds from the start, of each point."""
        return np.arange(0, self.end - self.start + self.step / 2, self.step)


@dataclass(kw_only=True, frozen=True, slots=True)
class Line:
    """A named series over the window."""

    name: str
    labels: Mapping[str, str]
    values: Values
    """One for each of Window.times, NaN where there is none; a single one for an instant query."""


def answers(prometheus: Prometheus, panel: Mapping[str, Any], window: Window) -> list[Line]:
    """Returns the series of all queries of a panel, in their order. Raises QueryError from Prometheus."""
    lines = []
    for target in panel["targets"]:
        # as Grafana: four scrapes at least, so that a window that misses one still has a rate
        interval = f"{max(4 * window.scrape, window.step + window.scrape):.0f}s"
        expr = bound(target["expr"], rate_interval=interval, range_=f"{window.end - window.start:.0f}s")
        if target.get("instant"):
            found = prometheus.instant(expr, window.end)
        else:
            found = prometheus.range(expr, window.start, window.end, window.step)
        lines += [_line(series, target, window) for series in found]
    return lines


def _line(series: Series, target: Mapping[str, Any], window: Window) -> Line:
    name = _LABEL.sub(lambda found: series.labels.get(found[1], ""), target.get("legendFormat", ""))
    if target.get("instant"):
        return Line(name=name, labels=series.labels, values=np.array([series.value]))
    values = np.full(len(window.times), np.nan)
    for at, value in series.points:
        index = round((at - window.start) / window.step)
        if 0 <= index < len(values):
            values[index] = value
    return Line(name=name, labels=series.labels, values=values)
