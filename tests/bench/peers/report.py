"""The comparison with peers as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.peers import systems
from bench.peers.plan import loads as all_loads
from bench.peers.summary import best_peer
from bench.report import MarkersError, replaced_between

BEGIN: Final = "<!-- peers:begin -->"
END: Final = "<!-- peers:end -->"
QUICK_LOADS: Final = ("mixed, 4 in flight", "mixed, arrivals at 0.8", "equal, 4 in flight", "mixed, callers leave")
PLOTS: Final = ("throughput", "latency", "waste")
_TITLES: Final = {each.name: each.title for each in systems.SYSTEMS}
_GOALS: Final = {"throughput": "≥ 2", "p99": "≤ 0.6", "wasted": "≤ 0.05"}

Load = Mapping[str, Any]


def section(state: Mapping[str, Any], loads: Sequence[Load]) -> str:
    """Returns what goes between the markers."""
    parts = [_conditions(state, loads), *(_picture(name) for name in PLOTS)]
    parts += ["Against the best peer at each load (ratios of ImageGen to it, with 95 % intervals):", _best_table(loads)]
    parts += ["Every system:", _systems_table(loads), "Device time for callers who had left:", _waste_table(loads)]
    parts += ["The processes of each system, warm and idle:", _memory_table(loads)]
    return "\n\n".join(parts)


def to_json(state: Mapping[str, Any], loads: Sequence[Load]) -> str:
    """Returns the figures as JSON, without the single requests."""
    kept = {name: state[name] for name in ("date", "machine", "load", "plan", "scale", "failed")}
    capacity = {each["system"]: each["capacity"] for each in state["calibration"]}
    return json.dumps({**kept, "capacity": capacity, "loads": loads}, indent=2, ensure_ascii=False) + "\n"


def write(page: Path, text: str) -> None:
    """Replaces what is between the markers of a page, which is made if there is none. Raises MarkersError."""
    if not page.exists():
        page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    whole = page.read_text(encoding="utf-8")
    page.write_text(replaced_between(whole, text, BEGIN, END), encoding="utf-8")


def _conditions(state: Mapping[str, Any], loads: Sequence[Load]) -> str:
    machine, load = state["machine"], state["load"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if name != "imagegen")
    others = max((f["others"] for each in loads for f in each["systems"].values()), default=0.0)
    capacity = "; ".join(
        f"{_TITLES[each['system']]} {each['capacity']['True']:.2f} and {each['capacity']['False']:.2f}"
        for each in state["calibration"]
    )
    left_out = f" Not measured: {', '.join(state['failed'])}." if state["failed"] else ""
    return (
        f"{state['date']}: {machine['cores']} cores of {machine['processor']}, {machine['system']}, Python "
        f"{machine['python']}, {versions}; one-minute load {load['before']:.1f} before and {load.get('after', 0):.1f} "
        f"after; other programs kept at most {others:.2f} cores busy. Capacities in images a second, of mixed and of "
        f"equal requests: {capacity}.{left_out}"
    )


def _picture(name: str) -> str:
    where = "images/benchmarks/peers"
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{where}-{name}-dark.svg">'
        f'<img alt="{name} of ImageGen and its peers" src="{where}-{name}-light.svg"></picture>'
    )


def _best_table(loads: Sequence[Load]) -> str:
    lines = ["| load | quantity | ratio | 95 % interval | goal | against |", "|---|---|---|---|---|---|"]
    for load in loads:
        for what, most in (("throughput", True), ("p50", False), ("p99", False), ("first_progress_p50", False)):
            peer = best_peer(load, what, most=most)
            ratio = load["ratios"].get(peer, {}).get(what) if peer else None
            if ratio is not None:
                lines.append(
                    f"| {load['load']} | {_what(what)} | **{ratio['value']:.2f}** | {ratio['low']:.2f} to "
                    f"{ratio['high']:.2f} | {_goal(load['load'], what)} | {_TITLES[peer]} |"  # type: ignore[index]
                )
    return "\n".join(lines)


def _goal(load: str, what: str) -> str:
    """Returns the goal of a figure: for throughput where the load can exceed a capacity, under the mixed load."""
    crowded = load in ("mixed, 8 in flight", "mixed, 16 in flight")
    if what == "throughput":
        return _GOALS[what] if crowded else ""
    tail = crowded or load in ("mixed, arrivals at 0.8", "mixed, arrivals at 0.95")
    return _GOALS.get(what, "") if tail else ""


def _systems_table(loads: Sequence[Load]) -> str:
    lines = [
        "| load | system | images/s | p50 | p99 | first progress, p50 | mean batch | requests |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load in loads:
        for name, f in load["systems"].items():
            lines.append(
                f"| {load['load']} | {_TITLES[name]} | {f['throughput']:.2f} | {_seconds(f['p50'])} | "
                f"{_seconds(f['p99'])} | {_seconds(f['first_progress_p50'])} | {f['mean_batch']:.1f} | "
                f"{f['requests']}{_failed(f)} |"
            )
    return "\n".join(lines)


def _waste_table(loads: Sequence[Load]) -> str:
    lines = [
        "| system | requests, left | device time | of it for nobody | ImageGen's to this system's | goal |",
        "|---|---|---|---|---|---|",
    ]
    for load in loads:
        if not any(each.name == load["load"] and each.leave for each in all_loads()):
            continue
        for name, f in load["systems"].items():
            ratio = load["ratios"].get(name, {}).get("wasted")
            lines.append(
                f"| {_TITLES[name]} | {f['requests']}, {f['left']} | {f['device_seconds']:.1f} s | "
                f"{f['wasted_seconds']:.2f} s | {'' if ratio is None else f'**{ratio:.3f}**'} | "
                f"{'' if ratio is None else _GOALS['wasted']} |"
            )
    return "\n".join(lines)


def _memory_table(loads: Sequence[Load]) -> str:
    lines = ["| system | memory | from its start to its first image |", "|---|---|---|"]
    for name, f in (loads[0]["systems"] if loads else {}).items():
        lines.append(f"| {_TITLES[name]} | {f['memory'] / 1e6:.0f} MB | {f['started']:.1f} s |")
    return "\n".join(lines)


def _what(name: str) -> str:
    return {
        "p50": "latency, p50",
        "p99": "latency, p99",
        "first_progress_p50": "time to first progress, p50",
    }.get(name, name)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _failed(figures: Mapping[str, Any]) -> str:
    return f", {figures['failed']} failed" if figures["failed"] else ""


__all__ = ["BEGIN", "END", "PLOTS", "QUICK_LOADS", "MarkersError", "section", "to_json", "write"]
