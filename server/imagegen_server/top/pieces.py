"""What the parts of the page are put together from: titles, tables, bars, counters on a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from imagegen_server.top import words
from imagegen_server.top.figures import Count, Span

FULL, TIGHT = 0.95, 0.8
"""Shares from which something that has an end is shown in red and in yellow."""
BAR: Final = 10
"""Characters of a bar."""
LABEL: Final = "bright_black"
"""Style of what names a figure."""


def quantiles(seen: Span) -> tuple[str, str]:
    """Returns the median and the 95th percentile, as far as the buckets tell them."""
    p50, p95 = (words.told_apart(value, seen.shortest, seen.longest) for value in (seen.p50, seen.p95))
    return p50, p95


def counted(count: Count, seconds: float | None, style: str | None) -> tuple[RenderableType, ...]:
    """Returns the cells of a counter; coloured if it grows and that is bad, dim while it is 0."""
    rate = None if count.recent is None or not seconds else count.recent * 60 / seconds
    look = (style or "") if count.recent else "dim" if not count.total else ""
    return tuple(Text(text, style=look) for text in (count.name, words.number(count.total), words.number(rate)))


def tally(counts: Sequence[Count], style: str | None, figure: Callable[[float | None], str] = words.number) -> Text:
    """Returns counters on a line: `oom 3 (+1), nan 2`, the growth in the window in brackets."""
    if not counts:
        return Text(words.DASH)
    occurred = present(counts)
    if not occurred:
        return Text("none", style="dim")
    line = Text()
    for count in occurred:
        line.append(", " if line else "").append(f"{count.name} {figure(count.total)}")
        if count.recent:
            line.append(f" (+{figure(count.recent)})", style=style or "bold")
    return line


def present(counts: Sequence[Count]) -> list[Count]:
    """Returns the counters that occurred."""
    return [count for count in counts if count.name]


def measured(ratio: float | None, text: str, *, plain: bool = False) -> Text:
    """Returns a bar with its figure; in a colour as it gets full, unless being full is nothing bad."""
    style = "green" if plain or ratio is None or ratio < TIGHT else "yellow" if ratio < FULL else "red"
    filled = words.bar(ratio, BAR)
    return Text().append(filled, style=style).append("─" * (BAR - len(filled)), style=LABEL).append(f" {text}")


def title(name: str) -> RenderableType:
    """Returns the line that a part begins with."""
    return Rule(Text(name, style="bold cyan"), align="left", style=LABEL)


def grid() -> Table:
    """Returns a table of labels and values without headings."""
    made = Table.grid(padding=(0, 1))
    made.add_column(style=LABEL, no_wrap=True, min_width=11)
    made.add_column(overflow="fold")
    return made


def table(*headings: str) -> Table:
    """Returns a table whose first column is to the left and whose others are figures."""
    made = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style=LABEL, pad_edge=False)
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return made
