"""From the records of all visits to the figures that are reported. Pure; times in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from bench.peers.drive import Heard
from bench.peers.figures import Estimate, block_ratio, latency_ratio, percentile

Record = Mapping[str, Any]
MEDIAN: Final = 0.5
TAIL: Final = 0.99


def summary(records: Sequence[Record], *, ours: str, peers: Sequence[str]) -> list[dict[str, Any]]:
    """Returns for each load, in the order of the records, every system's figures and our ratios to each peer."""
    names = list(dict.fromkeys(record["load"] for record in records))
    return [_load(name, [r for r in records if r["load"] == name], ours, peers) for name in names]


def best_peer(load: Mapping[str, Any], what: str, *, most: bool) -> str | None:
    """Returns the peer with the greatest (or least) value of a figure; None if no peer was measured."""
    found = {name: figures[what] for name, figures in load["systems"].items() if name in load["ratios"]}
    values: dict[str, float] = {name: value for name, value in found.items() if value is not None}
    if not values:
        return None
    return (max if most else min)(values, key=lambda name: values[name])


def _load(name: str, records: Sequence[Record], ours: str, peers: Sequence[str]) -> dict[str, Any]:
    systems = {each: [r for r in records if r["system"] == each] for each in (ours, *peers)}
    measured = {each: _figures(found) for each, found in systems.items() if found}
    ratios = {}
    if ours in measured:
        ratios = {peer: _ratios(systems[ours], systems[peer]) for peer in peers if peer in measured}
    return {"load": name, "systems": measured, "ratios": ratios}


def _figures(records: Sequence[Record]) -> dict[str, Any]:
    heard = [Heard(**each) for record in records for each in record["heard"]]
    latencies = [each.latency for each in heard if each.latency is not None]
    first = [each.first_progress for each in heard if each.first_progress is not None]
    device = sum(record["device_seconds"] for record in records)
    wasted = sum(record["wasted_seconds"] for record in records)
    return {
        "blocks": len(records),
        "requests": len(heard),
        "left": sum(each.left is not None for each in heard),
        "failed": sum(len(record["failures"]) for record in records),
        "throughput": median(record["throughput"] for record in records),
        "p50": percentile(latencies, MEDIAN) if latencies else None,
        "p99": percentile(latencies, TAIL) if latencies else None,
        "first_progress_p50": percentile(first, MEDIAN) if first else None,
        "device_seconds": device,
        "wasted_seconds": wasted,
        "mean_batch": median(record["mean_batch"] for record in records),
        "memory": median(record["memory"] for record in records),
        "started": median(record["started"] for record in records),
        "others": max(record["others"] for record in records),
    }


def _ratios(ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, Any]:
    found: dict[str, Estimate | float | None] = {}
    one = {record["block"]: record for record in ours}
    other = {record["block"]: record for record in theirs}
    blocks = [b for b in sorted(one.keys() & other.keys()) if one[b]["throughput"] and other[b]["throughput"]]
    if blocks:
        found["throughput"] = block_ratio(
            [one[b]["throughput"] for b in blocks], [other[b]["throughput"] for b in blocks]
        )
    mine, others = _by_key(ours, "latency"), _by_key(theirs, "latency")
    if mine.keys() & others.keys():
        found["p50"] = latency_ratio(mine, others, MEDIAN)
        found["p99"] = latency_ratio(mine, others, TAIL)
        found["first_progress_p50"] = latency_ratio(
            _by_key(ours, "first_progress"), _by_key(theirs, "first_progress"), MEDIAN
        )
    used = sum(record["wasted_seconds"] for record in theirs)
    if used:
        found["wasted"] = sum(record["wasted_seconds"] for record in ours) / used
    return {name: _json(value) for name, value in found.items()}


def _json(value: Estimate | float | None) -> Any:
    if isinstance(value, Estimate):
        return {"value": value.value, "low": value.low, "high": value.high, "count": value.count}
    return value


def _by_key(records: Sequence[Record], what: str) -> dict[str, float]:
    heard = [Heard(**each) for record in records for each in record["heard"]]
    return {each.key: getattr(each, what) for each in heard if getattr(each, what) is not None}
