"""One function for each type of panel: draws its answers into axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator

from pictures import looks
from pictures.answers import Line, Window

SMALL: Final = 6.5
_MOST_NAMES: Final = 9
_TICKS: Final = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 86_400, math.inf)
"""Seconds between two marks of the time axis."""
Panel = Mapping[str, Any]


def draw(axes: Axes, panel: Panel, lines: Sequence[Line], window: Window) -> None:
    """Draws a panel. Raises KeyError for a type that no dashboard of ours has."""
    kind = _KINDS[panel["type"]]
    if lines:
        kind(axes, panel, lines, window)
    else:
        word = panel["fieldConfig"]["defaults"].get("noValue", "no data")
        axes.set_axis_off()
        axes.text(0.5, 0.5, word, color=looks.FAINT, ha="center", va="center", transform=axes.transAxes)


def _graph(axes: Axes, panel: Panel, lines: Sequence[Line], window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    colors = _colors(panel, lines)
    if defaults["custom"].get("stacking", {}).get("mode") == "normal":
        values = [np.nan_to_num(line.values) for line in lines]
        axes.stackplot(window.times, *values, colors=colors, alpha=0.45, linewidth=0)
        for top, color in zip(np.cumsum(values, axis=0), colors, strict=True):
            axes.plot(window.times, top, color=color, linewidth=0.8)
    else:
        for line, color in zip(lines, colors, strict=True):
            single = np.isfinite(line.values).sum() < 2
            axes.plot(
                window.times, line.values, color=color, linewidth=1.0, marker="o" if single else None, markersize=2
            )
    peak = max((float(np.nanmax(line.values)) for line in lines if np.isfinite(line.values).any()), default=0.0)
    top = defaults.get("max") or (axes.get_ylim()[1] if peak > 0 else 1.0)
    _time_axis(axes, window)
    axes.set_ylim(0, top)
    if defaults["unit"].endswith(("bytes", "Bps")) and top > 0:
        axes.yaxis.set_major_locator(MultipleLocator(2.0 ** math.floor(math.log2(top / 3))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: looks.text(value, defaults["unit"])))
    for step in defaults.get("thresholds", {}).get("steps", ()) if "thresholdsStyle" in defaults["custom"] else ():
        if step.get("value") is not None and 0 < step["value"] <= top:
            axes.axhline(step["value"], color=looks.COLORS[step["color"]], linestyle=(0, (5, 4)), linewidth=0.7)
    _legend(axes, [line.name for line in lines], colors)


def _heatmap(axes: Axes, panel: Panel, lines: Sequence[Line], window: Window) -> None:
    ordered = sorted(lines, key=lambda line: float(line.labels["le"]))
    bounds = [float(line.labels["le"]) for line in ordered]
    cumulative = np.nan_to_num(np.array([line.values for line in ordered]))
    cells = np.maximum(np.diff(cumulative, axis=0, prepend=0), 0)
    filled = np.flatnonzero(cells.max(axis=1) > 1e-6)
    low, high = (int(filled[0]), int(filled[-1])) if len(filled) else (0, len(bounds) - 1)
    low, high = max(low - 1, 0), min(high + 1, len(bounds) - 1)
    shown = cells[low : high + 1]
    edges = np.append(window.times, window.times[-1] + window.step)
    masked = np.ma.masked_less_equal(np.sqrt(shown), 1e-3)
    axes.pcolormesh(edges, np.arange(len(shown) + 1), masked, cmap="turbo", vmin=0)
    _time_axis(axes, window)
    unit = panel["options"]["yAxis"]["unit"]
    every = max(1, len(shown) // 7)
    ticks = range(0, len(shown), every)
    axes.set_yticks([tick + 1 for tick in ticks], [looks.text(bounds[low + tick], unit) for tick in ticks])
    axes.set_ylim(0, len(shown))


def _number(axes: Axes, panel: Panel, lines: Sequence[Line], window: Window) -> None:
    shown = looks.show(float(lines[0].values[-1]), panel["fieldConfig"]["defaults"])
    full = panel["options"]["colorMode"] == "background" and shown.color is not None
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(shown.color if full and shown.color else looks.PANEL)
    color = looks.BACKGROUND if full else shown.color or looks.TEXT
    size = 17 if len(shown.text) < 9 else 13
    axes.text(
        0.5,
        0.42,
        shown.text,
        color=color,
        fontsize=size,
        weight="bold",
        ha="center",
        va="center",
        transform=axes.transAxes,
    )


def _timeline(axes: Axes, panel: Panel, lines: Sequence[Line], window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    for lane, line in enumerate(reversed(lines)):
        known = np.isfinite(line.values)
        changes = np.flatnonzero(np.append(True, (line.values[1:] != line.values[:-1]) & (known[1:] | known[:-1])))
        for begin, end in zip(changes, [*changes[1:], len(line.values)], strict=True):
            if known[begin]:
                shown = looks.show(float(line.values[begin]), defaults)
                span = (float(window.times[begin]), float((end - begin) * window.step))
                axes.broken_barh([span], (lane + 0.12, 0.76), facecolor=shown.color, alpha=0.8)
    axes.set_yticks([lane + 0.5 for lane in range(len(lines))], [line.name for line in reversed(lines)])
    axes.set_ylim(0, len(lines))
    _time_axis(axes, window)
    states = panel["fieldConfig"]["defaults"]["mappings"][0]["options"].values()
    _legend(axes, [state["text"] for state in states], [looks.COLORS[state["color"]] for state in states])


def _table(axes: Axes, panel: Panel, lines: Sequence[Line], window: Window) -> None:
    order = panel["transformations"][0]["options"]["indexByName"]
    columns = [name for name in sorted(order, key=order.__getitem__) if name != "Value"]
    rows = [columns, *([line.labels.get(name, "") for name in columns] for line in lines)]
    axes.set_axis_off()
    widths = [0.35 + 0.056 * max(len(row[column]) for row in rows) for column in range(len(columns))]
    lefts = np.append(0, np.cumsum(widths)) / (axes.get_window_extent().width / axes.figure.dpi)
    for index, row in enumerate(rows):
        for left, cell in zip(lefts, row, strict=False):
            color = looks.FAINT if index == 0 else looks.TEXT
            axes.text(left, 0.9 - 0.2 * index, cell, color=color, fontsize=7, transform=axes.transAxes, va="top")


def _time_axis(axes: Axes, window: Window) -> None:
    axes.set_xlim(0, float(window.times[-1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}"))
    axes.xaxis.set_major_locator(MultipleLocator(next(step for step in _TICKS if step * 7 > window.times[-1])))
    axes.grid(visible=True, color=looks.GRID, linewidth=0.5)
    axes.set_axisbelow(True)


def _colors(panel: Panel, lines: Sequence[Line]) -> list[str]:
    fixed = {
        override["matcher"]["options"]: looks.COLORS[setting["value"]["fixedColor"]]
        for override in panel["fieldConfig"]["overrides"]
        for setting in override["properties"]
        if setting["id"] == "color"
    }
    return [fixed.get(line.name, looks.PALETTE[index % len(looks.PALETTE)]) for index, line in enumerate(lines)]


def _legend(axes: Axes, names: Sequence[str], colors: Sequence[str]) -> None:
    handles = [axes.plot([], [], color=color, linewidth=3)[0] for color in colors[:_MOST_NAMES]]
    shown = [name or "value" for name in names[:_MOST_NAMES]]
    if len(names) > _MOST_NAMES:
        shown[-1] += f" and {len(names) - _MOST_NAMES} more"
    width = axes.get_window_extent().width / axes.figure.dpi
    columns = max(1, min(len(shown), int(width / (0.052 * max(map(len, shown)) + 0.35))))
    axes.legend(
        handles,
        shown,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.12),
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        labelcolor=looks.TEXT,
        handlelength=1.2,
        columnspacing=1.2,
        labelspacing=0.25,
        borderaxespad=0,
    )


_KINDS: Final[Mapping[str, Callable[[Axes, Panel, Sequence[Line], Window], None]]] = {
    "timeseries": _graph,
    "heatmap": _heatmap,
    "stat": _number,
    "state-timeline": _timeline,
    "table": _table,
}
