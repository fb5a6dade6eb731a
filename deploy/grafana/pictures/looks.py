"""Colours, and values as text: what Grafana does with a unit, thresholds, and value mappings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

BACKGROUND, PANEL, GRID, TEXT, FAINT = "#111217", "#181b1f", "#2c3235", "#ccccdc", "#8e8e9c"
COLORS: Final[Mapping[str, str]] = {
    "green": "#73bf69",
    "yellow": "#fade2a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "dark-red": "#c4162a",
    "blue": "#5794f2",
    "purple": "#b877d9",
    "text": "#8e8e9c",
}
PALETTE: Final = (
    "#73bf69",
    "#f2cc0c",
    "#8ab8ff",
    "#ff780a",
    "#f2495c",
    "#5794f2",
    "#b877d9",
    "#37872d",
    "#e0b400",
    "#96d98d",
)
"""Of series without a colour of their own, in order."""
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_DECIMAL: Final = ("", "k", "M", "G", "T")
_SUFFIXES: Final[Mapping[str, str]] = {
    "reqps": " req/s",
    "ops": " /s",
    "celsius": " °C",
}
_SCALED: Final[Mapping[str, str]] = {"short": "", "watt": "W", "joule": "J", "hertz": "Hz"}


@dataclass(kw_only=True, frozen=True, slots=True)
class Shown:
    """A value as it is shown."""

    text: str
    color: str | None
    """None if neither a mapping nor a threshold says."""


def show(value: float, defaults: Mapping[str, Any]) -> Shown:
    """Returns how a panel's field defaults show a value."""
    for mapping in defaults.get("mappings", ()):
        found = mapping["options"].get(f"{value:g}") if mapping["type"] == "value" else None
        if found is not None:
            return Shown(text=found["text"], color=COLORS[found["color"]])
    steps = defaults.get("thresholds", {}).get("steps", ())
    return Shown(text=text(value, defaults["unit"], defaults.get("decimals")), color=_threshold(value, steps))


def text(value: float, unit: str, decimals: float | None = None) -> str:
    """Returns a value with its unit, such as 1.5 GiB or 250 ms."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    match unit:
        case "percentunit":
            return f"{_digits(value * 100, decimals)} %"
        case "s":
            return _seconds(value)
        case "bytes" | "binBps":
            return _scaled(value, 1024, _BINARY) + ("/s" if unit == "binBps" else "")
    if unit in _SCALED:
        return f"{_scaled(value, 1000, _DECIMAL)}{_SCALED[unit]}".strip()
    return _digits(value, decimals) + _SUFFIXES.get(unit, "")


def _threshold(value: float, steps: Sequence[Mapping[str, Any]]) -> str | None:
    color = None
    for step in steps:
        if step.get("value") is None or value >= step["value"]:
            color = COLORS[step["color"]]
    return color


def _digits(value: float, decimals: float | None = None) -> str:
    return (
        f"{value:.{int(decimals)}f}"
        if decimals is not None
        else f"{value:.3g}"
        if abs(value) < 1000
        else f"{value:.0f}"
    )


def _seconds(value: float) -> str:
    size = abs(value)
    for least, divisor, unit in ((172_800, 86_400, "days"), (120, 60, "min"), (1, 1, "s"), (1e-3, 1e-3, "ms")):
        if size >= least:
            return f"{_digits(value / divisor)} {unit}"
    return "0 s" if size < 1e-9 else f"{_digits(value * 1e6)} µs"


def _scaled(value: float, base: int, names: Sequence[str]) -> str:
    exponent = 0
    while abs(value) >= base and exponent < len(names) - 1:
        value, exponent = value / base, exponent + 1
    return f"{_digits(value)} {names[exponent]}"
