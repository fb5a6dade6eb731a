"""The report as text for a terminal, part by part. Knows no server and no screen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from imagegen_server.top import pieces, words
from imagegen_server.top.figures import Load, Report, StageRow

BAD_OUTCOMES: Final = {"degraded": "yellow", "rejected": "yellow", "deadline": "yellow", "error": "red"}
"""What an outcome's figures look like while it occurs."""


def load(report: Report) -> RenderableType:
    """Returns what there is to do, and how fast it is done."""
    now = report.load
    rows = pieces.grid()
    running = None if now.in_flight is None or now.queued is None else max(now.in_flight - now.queued, 0)
    rows.add_row(
        "in flight", pieces.measured(words.ratio_of(now.in_flight, now.peak_in_flight), _in_flight(now), plain=True)
    )
    rows.add_row("  running", Text(words.number(running)))
    rows.add_row(
        "  queued",
        pieces.measured(
            words.ratio_of(now.queued, now.capacity), f"{words.number(now.queued)} of {words.number(now.capacity)}"
        ),
    )
    rows.add_row("device busy", pieces.measured(now.busy, words.percent(now.busy), plain=True))
    rows.add_row("delivered", Text(f"{words.number(now.generations_per_minute)} generations/min"))
    rows.add_row("", Text(f"{words.number(now.images_per_minute)} images/min"))
    waits = pieces.table("", "p50", "p95")
    for priority, wait in now.queue_wait.items():
        waits.add_row(f"wait, {priority}", *pieces.quantiles(wait))
    waits.add_row("first progress", *pieces.quantiles(now.first_progress))
    return Group(pieces.title("Load"), rows, waits)


def requests(report: Report) -> RenderableType:
    """Returns how generations ended."""
    table = pieces.table("outcome", "total", "/min")
    for count in report.outcomes:
        table.add_row(*pieces.counted(count, report.seconds, BAD_OUTCOMES.get(count.name)))
    return Group(pieces.title("Generations"), table)


def stages(report: Report) -> RenderableType:
    """Returns the stages."""
    table = pieces.table("", "ended", "not ok", "p50", "p95", "steps/s", "step p50", "step p95", "rows")
    for row in report.stages:
        table.add_row(*_stage(row))
    return Group(pieces.title("Stages"), table)


def trouble(report: Report) -> RenderableType:
    """Returns how calls ended, departures from the plan, refusals, stops and waste."""
    rows = pieces.grid()
    rows.add_row("gRPC calls", pieces.tally(report.codes, None))
    rows.add_row("fallbacks", pieces.tally(report.fallbacks, "yellow"))
    rows.add_row("refusals", pieces.tally(report.rejections, "yellow"))
    rows.add_row("cancelled in", pieces.tally(report.cancellations, None))
    rows.add_row("stop takes", Text("p50 {}, p95 {}".format(*pieces.quantiles(report.cancel_latency))))
    wasted = Text(f"{words.percent(report.waste.ratio)} of device time: ")
    rows.add_row("wasted", wasted.append(pieces.tally(report.waste.reasons, None, words.seconds)))
    rows.add_row("auth failures", pieces.tally(report.auth_failures, "yellow"))
    return Group(pieces.title("Calls and trouble"), rows)


def _in_flight(now: Load) -> str:
    return f"{words.number(now.in_flight)}, at most {words.number(now.peak_in_flight)}"


def _stage(row: StageRow) -> Iterable[RenderableType]:
    failed = Text(words.number(row.not_ok), style="yellow" if row.not_ok else "")
    step = (
        (words.number(row.steps_per_second), *pieces.quantiles(row.step), words.number(row.rows))
        if row.steps_per_second is not None or row.step.count is not None
        else ("", "", "", "")
    )
    return (row.name, words.number(row.duration.count), failed, *pieces.quantiles(row.duration), *step)
