"""A row of a dashboard as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from imagegen_server.observe.prometheus import Prometheus
from pictures import kinds, looks
from pictures.answers import Window, answers

_INCHES_PER_COLUMN: Final = 0.6
_INCHES_PER_LINE: Final = 0.33
_HEADING: Final = 0.35
_GAP: Final = 0.07
_QUALITY: Final = 80


def draw(prometheus: Prometheus, heading: str, panels: Sequence[dict[str, Any]], window: Window, file: Path) -> None:
    """Draws panels of one row where they lie on the grid, below a heading, into a WebP file. Raises QueryError."""
    mpl.rcParams |= {"font.size": kinds.SMALL, "font.family": "DejaVu Sans", "axes.edgecolor": looks.GRID}
    top = min(panel["gridPos"]["y"] for panel in panels)
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) - top
    width, height = 24 * _INCHES_PER_COLUMN, lines * _INCHES_PER_LINE + _HEADING
    figure = Figure(figsize=(width, height), facecolor=looks.BACKGROUND)
    figure.text(
        0.1 / width, 1 - 0.5 * _HEADING / height, heading, color=looks.TEXT, fontsize=11, weight="bold", va="center"
    )
    for panel in panels:
        at = panel["gridPos"]
        left, right = at["x"] * _INCHES_PER_COLUMN + _GAP, (at["x"] + at["w"]) * _INCHES_PER_COLUMN - _GAP
        upper = height - _HEADING - (at["y"] - top) * _INCHES_PER_LINE - _GAP / 2
        lower = upper - at["h"] * _INCHES_PER_LINE + _GAP
        _panel(figure, panel, (left, lower, right - left, upper - lower), prometheus, window)
    figure.savefig(file, format="webp", dpi=100, pil_kwargs={"quality": _QUALITY, "method": 6})


def _panel(
    figure: Figure,
    panel: dict[str, Any],
    box: tuple[float, float, float, float],
    prometheus: Prometheus,
    window: Window,
) -> None:
    """Draws one panel into a box, which is left, lower, width and height in inches."""
    left, lower, width, height = box
    whole_width, whole_height = figure.get_size_inches()

    def scaled(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / whole_width, y / whole_height, w / whole_width, h / whole_height

    back = figure.add_axes(scaled(*box), facecolor=looks.PANEL)
    back.set_xticks([])
    back.set_yticks([])
    found = answers(prometheus, panel, window)
    if panel["type"] == "stat":
        inner = (left, lower, width, height)
    elif panel["type"] == "table":
        inner = (left + 0.15, lower + 0.1, width - 0.3, height - 0.4)
    elif panel["type"] == "state-timeline":
        longest = max((len(line.name) for line in found), default=0)
        inner = (left + 0.2 + 0.055 * longest, lower + 0.55, width - 0.4 - 0.055 * longest, height - 0.9)
    elif panel["type"] == "heatmap":
        inner = (left + 0.6, lower + 0.3, width - 0.75, height - 0.65)
    else:
        inner = (left + 0.6, lower + 0.66, width - 0.75, height - 1.0)
    axes = figure.add_axes(scaled(*inner), facecolor="none")
    axes.tick_params(colors=looks.FAINT, labelsize=kinds.SMALL, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    kinds.draw(axes, panel, found, window)
    title = textwrap.shorten(panel["title"], int(width * 13), placeholder="…")
    figure.text(
        (left + 0.1) / whole_width,
        (lower + height - 0.16) / whole_height,
        title,
        color=looks.BACKGROUND if _is_light(axes) else looks.TEXT,
        fontsize=7.5,
        weight="bold",
        va="center",
    )


def _is_light(axes: Axes) -> bool:
    """Returns whether a number's background is a colour of its own."""
    red, green, blue, alpha = to_rgba(axes.get_facecolor())
    return alpha > 0 and red + green + blue > 1
