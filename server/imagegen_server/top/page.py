"""The whole page: a headline that says which server, how it is and when that was, and the parts beside each other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from imagegen_server.top import pieces, view, view_gpu, words
from imagegen_server.top.figures import Report

WIDE: Final = 136
"""Columns from which three parts stand beside each other."""
SOON: Final = 7 * 86400
"""Seconds before its end from which a certificate is shown in red."""
STATE_STYLES: Final = {"serving": "bold green", "loading": "bold yellow", "draining": "bold yellow"}


@dataclass(kw_only=True, frozen=True, slots=True)
class Page:
    """What is on the screen at one moment. A rich renderable."""

    url: str
    report: Report | None
    """None before the first answer."""
    clock: float
    """Unix time of this page."""
    failure: str = ""
    """Why the last scrape failed; empty if it did not."""
    failing_since: float | None = None
    """Unix time of the first of the scrapes that failed in a row."""
    hint: str = ""
    """Last line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lays the page out for the console's width."""
        yield self._headline(options.max_width)
        if self.report is not None:
            body = _wide(self.report) if options.max_width >= WIDE else _narrow(self.report)
            yield from body
        if self.hint:
            yield Text(self.hint, style="dim")

    def _headline(self, width: int) -> RenderableType:
        line = Table.grid(expand=True)
        line.add_column(overflow="ellipsis", no_wrap=True)
        line.add_column(justify="right", no_wrap=True)
        line.add_row(Text(self.url, style="bold"), Text(time.strftime("%H:%M:%S", time.localtime(self.clock))))
        parts: list[RenderableType] = [line]
        if self.failing_since is not None:
            since = time.strftime("%H:%M:%S", time.localtime(self.failing_since))
            old = "" if self.report is None else "; what follows is from before"
            parts.append(Text(f"no answer since {since}: {self.failure}{old}", style="bold red"))
        elif self.report is None:
            parts.append(Text("waiting for the first answer", style="dim"))
        if self.report is not None:
            parts += [_server(self.report), *_notes(self.report, self.clock), _scope(self.report)]
        return Group(*parts)


def _server(report: Report) -> Text:
    server = report.server
    state = server.state or words.DASH
    line = Text().append(f"● {state}", style=STATE_STYLES.get(state, "bold"))
    line.append(f"  {server.model or words.DASH}", style="bold")
    line.append(f"  {server.dtype or words.DASH}, residency {server.residency or words.DASH}")
    return line.append(f", imagegen {server.version or words.DASH}")


def _notes(report: Report, clock: float) -> list[Text]:
    """Returns what deserves a line of its own, if it is so."""
    server, notes = report.server, []
    if server.degraded:
        notes.append(Text(f"degraded: works without {', '.join(server.degraded)}", style="bold yellow"))
    if report.restarts:
        often = "once" if report.restarts == 1 else f"{report.restarts} times"
        notes.append(Text(f"the server was restarted {often} while this ran", style="yellow"))
    if server.certificate_ends is not None:
        left = server.certificate_ends - clock
        text = f"the certificate ends in {words.seconds(left)}" if left > 0 else "the certificate has ended"
        notes.append(Text(text, style="bold red" if left < SOON else "dim"))
    return notes


def _scope(report: Report) -> Text:
    """Returns what the figures are of."""
    window = f"last {words.seconds(report.seconds)}"
    if report.seconds is None:
        text = "one scrape so far: no rates; everything else since the server's start"
    elif report.since_start:
        text = f"rates and (+n) over the {window}, everything else since the server's start"
    else:
        text = f"{window}: rates, stages, durations, shares, (+n); since the start: totals"
    return Text(text, style=pieces.LABEL)


def _narrow(report: Report) -> list[RenderableType]:
    return [
        _beside(view.load(report), view.requests(report)),
        view.stages(report),
        view.trouble(report),
        view_gpu.hardware(report),
    ]


def _wide(report: Report) -> list[RenderableType]:
    return [
        _beside(view.load(report), view.requests(report), view.trouble(report), ratios=(4, 3, 5)),
        _beside(view.stages(report), view_gpu.hardware(report), ratios=(4, 3)),
    ]


def _beside(*parts: RenderableType, ratios: tuple[int, ...] = (1, 1)) -> RenderableType:
    row = Table.grid(expand=True, padding=(0, 2))
    for ratio in ratios:
        row.add_column(ratio=ratio)
    row.add_row(*parts)
    return row
