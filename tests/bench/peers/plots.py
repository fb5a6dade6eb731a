"""The comparison with peers as pictures: SVG, for light pages and for dark ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.peers import systems

Load = Mapping[str, Any]

_COLOURS: Final = {
    "light": ("#0b6e4f", "#c44536", "#e0a030", "#4a6fa5"),
    "dark": ("#4fd1a5", "#ff8a75", "#f2c14e", "#8fb3ea"),
}
"""In the order of systems.SYSTEMS; told apart without red and green, by lightness too."""
_INK: Final = {"light": "#24292f", "dark": "#e6edf3"}
_GRID: Final = {"light": "#d0d7de", "dark": "#3d444d"}
_CLOSED: Final = (1, 4, 8, 16)
_ARRIVALS: Final = (0.5, 0.8, 0.95)


def write(directory: Path, loads: Sequence[Load]) -> list[Path]:
    """Writes every picture in both themes; returns the files. Equal figures give equal bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    directory.mkdir(parents=True, exist_ok=True)
    found = {load["load"]: load["systems"] for load in loads}
    written = []
    for theme in _COLOURS:
        for name, draw in (("throughput", _throughput), ("latency", _latency), ("waste", _waste)):
            path = directory / f"peers-{name}-{theme}.svg"
            style: dict[Any, Any] = {
                "svg.hashsalt": "imagegen",
                "svg.fonttype": "none",
                "text.color": _INK[theme],
                "axes.labelcolor": _INK[theme],
                "axes.edgecolor": _GRID[theme],
                "xtick.color": _INK[theme],
                "ytick.color": _INK[theme],
                "grid.color": _GRID[theme],
                "axes.spines.top": False,
                "axes.spines.right": False,
                "font.family": "sans-serif",
                "font.size": 10,
            }
            with mpl.rc_context(style):
                figure = draw(found, _COLOURS[theme])
                figure.savefig(path, transparent=True, metadata={"Date": None})
            written.append(path)
    return written


def _panels(titles: Sequence[str], label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.grid(axis="y", linewidth=0.6)
        axis.set_axisbelow(True)
    axes[0].set_ylabel(label)
    return figure, axes


def _bars(axis: Any, groups: Sequence[str], values: Sequence[Sequence[float]], colours: Sequence[str]) -> None:
    """Draws a group of bars, one for each system, at each place of the x axis."""
    width = 0.8 / len(values)
    for index, (system, heights) in enumerate(zip(systems.SYSTEMS, values, strict=True)):
        places = [place + (index - (len(values) - 1) / 2) * width for place in range(len(groups))]
        axis.bar(places, heights, width=0.92 * width, color=colours[index], label=system.title)
    axis.set_xticks(range(len(groups)), groups)


def _legend(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _of(found: Mapping[str, Any], load: str, what: str) -> list[float]:
    """Returns a figure of every system; 0 where there is none."""
    return [found.get(load, {}).get(system.name, {}).get(what) or 0.0 for system in systems.SYSTEMS]


def _by_system(found: Mapping[str, Any], names: Sequence[str], what: str) -> list[tuple[float, ...]]:
    return list(zip(*(_of(found, name, what) for name in names), strict=True))


def _throughput(found: Mapping[str, Any], colours: Sequence[str]) -> Any:
    kinds = {"mixed": "20 to 50 steps, 64 and 128 px", "equal": "20 steps, 64 px"}
    figure, axes = _panels(list(kinds.values()), "images/s")
    for axis, kind in zip(axes, kinds, strict=True):
        names = [f"{kind}, {n} in flight" for n in _CLOSED]
        _bars(axis, [str(n) for n in _CLOSED], _by_system(found, names, "throughput"), colours)
        axis.set_xlabel("callers")
    _legend(figure, axes[0])
    return figure


def _latency(found: Mapping[str, Any], colours: Sequence[str]) -> Any:
    figure, axes = _panels(["median", "99th percentile"], "seconds until the image")
    names = [f"mixed, arrivals at {part:g}" for part in _ARRIVALS]
    for axis, what in zip(axes, ("p50", "p99"), strict=True):
        _bars(axis, [f"{part:g}" for part in _ARRIVALS], _by_system(found, names, what), colours)
        axis.set_xlabel("arrivals, as a part of the best peer's capacity")
    _legend(figure, axes[0])
    return figure


def _waste(found: Mapping[str, Any], colours: Sequence[str]) -> Any:
    figure, axes = _panels(["half of the callers leave"], "device seconds for nobody")
    values = _of(found, "mixed, callers leave", "wasted_seconds")
    axes[0].barh([system.title for system in systems.SYSTEMS], values, color=list(colours))
    axes[0].set_ylabel("")
    axes[0].set_xlabel("device seconds spent on callers who had left")
    axes[0].invert_yaxis()
    axes[0].grid(visible=False, axis="y")
    axes[0].grid(axis="x", linewidth=0.6)
    return figure
