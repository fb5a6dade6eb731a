"""The rows as a Markdown table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.overhead import Overhead
from bench.rows import Row

BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"


class MarkersError(Exception):
    """The page does not have each marker once, the begin before the end."""


def table(rows: Sequence[Row]) -> str:
    """Returns the comparisons as a Markdown table."""
    lines = [
        "| load | quantity | arms | ratio | 95 % interval | goal | medians |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        ratio = each.ratio
        lines.append(
            f"| {each.name} | {each.what} | {each.arms} | **{_ratio(ratio.median)}** "
            f"| {_ratio(ratio.low)} to {_ratio(ratio.high)} "
            f"| {each.goal} | {_number(each.numerator)} / {_number(each.denominator)} {each.unit} |"
        )
    return "\n".join(lines)


def overhead_table(overheads: Sequence[Overhead]) -> str:
    """Returns the engine's own time as a Markdown table."""
    lines = ["| jobs in a turn | metrics | ms per turn | ms per step of one image |", "|---|---|---|---|"]
    for each in overheads:
        metrics = "on" if each.observed else "off"
        lines.append(f"| {each.jobs} | {metrics} | {each.turn_ms:.3f} | {each.step_ms:.3f} |")
    return "\n".join(lines)


def section(record: Mapping[str, Any], rows: Sequence[Row], overheads: Sequence[Overhead]) -> str:
    """Returns what goes between the markers."""
    machine, load = record["machine"], record["load"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if name != "imagegen")
    others = max(each.others for each in rows)
    conditions = (
        f"{record['date']}: {machine['cores']} cores of {machine['processor']}, {machine['system']}, Python "
        f"{machine['python']}, {versions}; {record['torch_threads']} torch threads in every arm; one-minute load "
        f"{load['before']:.1f} before and {load['after']:.1f} after; {max(each.ratio.pairs for each in rows)} pairs, "
        f"during which other programs kept at most {others:.2f} cores busy."
    )
    server = record["server"]
    start = (
        f"`imagegen-server --model shapes` serves {server['start_seconds']:.1f} s after its start (goal: under 5 s; "
        f"median of {server['starts']}), and holds {server['idle_rss_bytes'] / 1e6:.0f} MB of memory when it is idle."
    )
    parts = [conditions, table(rows), start, "The engine's own time, with a runner that does nothing:"]
    return "\n\n".join([*parts, overhead_table(overheads)])


def to_json(record: Mapping[str, Any], rows: Sequence[Row], overheads: Sequence[Overhead]) -> str:
    """Returns everything that was measured as JSON."""
    whole = {
        **record,
        "rows": [dataclasses.asdict(each) for each in rows],
        "engine_overhead": [{**dataclasses.asdict(each), "step_ms": each.step_ms} for each in overheads],
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def replaced(page: str, text: str) -> str:
    """Returns the page with what is between its markers replaced. Raises MarkersError."""
    return replaced_between(page, text, BEGIN, END)


def replaced_between(page: str, text: str, begin: str, end: str) -> str:
    """Returns the page with what is between two markers replaced. Raises MarkersError."""
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended or begin in rest or end in before + after:
        raise MarkersError(f"the page must have {begin} and then {end}, each once")
    return f"{before}{begin}\n{text}\n{end}{after}"


def write(page: Path, text: str) -> None:
    """Replaces what is between the markers of a page. Raises MarkersError."""
    page.write_text(replaced(page.read_text(encoding="utf-8"), text), encoding="utf-8")


def _ratio(value: float) -> str:
    """Returns a ratio with two decimals; a small part of something with as many as it takes to see it."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
