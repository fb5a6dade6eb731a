"""Numbers as an operator reads them. What is not known is a dash, never 0."""

from __future__ import annotations

from typing import Final

DASH: Final = "\N{EN DASH}"


def number(value: float | None, digits: int = 1) -> str:
    """Returns a number in at most about five characters: 3, 24.6, 1,250, 1.3M."""
    if value is None:
        return DASH
    if abs(value) >= 1e6:
        return f"{value / 1e6:.1f}M"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def told_apart(value: float | None, shortest: float | None, longest: float | None) -> str:
    """Returns a histogram's quantile: `< 50 ms` in its first bucket, `> 120 s` beyond its last, else its duration."""
    if value is not None and shortest is not None and value <= shortest:
        return f"< {shortest * 1e3:g} ms" if shortest < 1 else f"< {shortest:g} s"
    if value is not None and longest is not None and value >= longest:
        return f"> {longest:g} s"
    return seconds(value)


def seconds(value: float | None) -> str:
    """Returns a duration: 12 ms, 1.25 s, 2 min 5 s, 3 h 20 min."""
    if value is None:
        return DASH
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs" if value else "0 s"
    if value < 1:
        return f"{value * 1e3:.{1 if value < 0.01 else 0}f} ms"
    if value < 100:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f}".removesuffix(".0") + " s"
    return _long(round(value))


def _long(total: int) -> str:
    for name, length, rest_name, rest_length in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if total >= length:
            rest = total % length // rest_length
            return f"{total // length} {name}" + (f" {rest} {rest_name}" if rest else "")
    return f"{total} s"


def percent(ratio: float | None) -> str:
    """Returns a share of 0 to 1 as a percentage."""
    if ratio is None:
        return DASH
    return f"{ratio * 100:.1f} %" if 0 < ratio < 0.0995 else f"{ratio * 100:.0f} %"


def gigabytes(value: float | None) -> str:
    """Returns bytes in decimal gigabytes without the unit, as the memory plan gives them."""
    return DASH if value is None else f"{value / 1e9:.1f}"


def unit(value: float | None, name: str) -> str:
    """Returns a whole number with its unit."""
    return DASH if value is None else f"{value:.0f} {name}"


def bar(ratio: float | None, width: int) -> str:
    """Returns the filled part of a bar of `width` characters for a share of 0 to 1; nothing if it is not known."""
    whole, half = divmod(round(min(max(ratio or 0.0, 0.0), 1.0) * width * 2), 2)
    return "━" * whole + "╸" * half


def ratio_of(value: float | None, whole: float | None) -> float | None:
    """Returns value / whole; None if either is not known or there is no whole."""
    return value / whole if value is not None and whole else None
