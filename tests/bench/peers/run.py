"""Measures the service against what else one would serve the same pair with. `make bench-peers` runs it.

    python tests/bench/peers/run.py            about 20 minutes; rewrites its part of docs/benchmarks.md, and plots
    python tests/bench/peers/run.py --quick    a few requests of each kind, to see that it works; build/bench-peers

Every record is written to build/bench-peers/records.json as soon as it is there. A run that was cut short goes on
where it ended if it is started again with --resume; --report writes the page from the records that there are. The
time is bounded: no visit begins when --minutes have passed. Exit status 0 once the page is written, whatever came
out, 1 if a system could not be measured at all.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[3]
sys.path[0] = str(ROOT / "tests")  # where pytest finds these modules too: each has one name, bench.…

from bench import machine  # noqa: E402 - needs the path
from bench.peers import measure, plan, plots, report, systems  # noqa: E402 - as above
from bench.peers.summary import summary  # noqa: E402 - as above
from bench.say import say  # noqa: E402 - as above

WORK: Final = ROOT / "build" / "bench-peers"
VERSION: Final = 1
"""Of the records' form."""
_TRIES: Final = 2
"""How often a visit is tried before it is left out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the system that runs is stopped, as on Ctrl-C
    WORK.mkdir(parents=True, exist_ok=True)
    target = options.output or (WORK if options.quick else ROOT / "docs")
    target.mkdir(parents=True, exist_ok=True)
    store = Store(target / "records.json" if options.output else WORK / "records.json", options)
    if not options.report:
        asyncio.run(_measure(store, options))
    state = store.state
    loads = summary(state["records"], ours=systems.OURS.name, peers=[peer.name for peer in systems.PEERS])
    text = report.section(state, loads)
    (target / "benchmarks-peers.json").write_text(report.to_json(state, loads), encoding="utf-8")
    plots.write(target / "images" / "benchmarks", loads)
    report.write(target / "benchmarks.md", text)
    say(f"\n{text}\n\nwritten: {target / 'benchmarks.md'}")
    return 1 if state["failed"] or not loads else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few requests of each kind, to see that it works")
    parser.add_argument("--minutes", type=float, default=18.0, help="how long to measure, about (default 18)")
    parser.add_argument("--rounds", type=int, default=1, help="how often A B C D D C B A is gone through (default 1)")
    parser.add_argument("--systems", help="names, with commas, of the systems to measure; all by default")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run has measured")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the page")
    parser.add_argument("--output", type=Path, help="directory to write to instead of docs")
    return parser


class Store:
    """What was measured so far, in a file."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self._path = path
        plan_of_run = {"quick": options.quick, "rounds": options.rounds, "systems": options.systems}
        self.state: dict[str, Any] = {
            "version": VERSION,
            "plan": plan_of_run,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine.describe(systems.PACKAGES),
            "load": {"before": machine.load()},
            "calibration": [],
            "scale": None,
            "records": [],
            "failed": [],
        }
        if (options.resume or options.report) and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if options.report or (kept["version"] == VERSION and kept["plan"] == plan_of_run):
                self.state = {**kept, "failed": []}

    def save(self) -> None:
        """Writes the file; it is whole at any moment."""
        self.state["load"]["after"] = machine.load()
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.state, ensure_ascii=False), encoding="utf-8")
        partial.replace(self._path)

    def has(self, system: str, block: int) -> bool:
        """Returns whether a visit was made."""
        return any(r["system"] == system and r["block"] == block for r in self.state["records"])


async def _measure(store: Store, options: argparse.Namespace) -> None:
    began, state = time.monotonic(), store.state
    names = set(options.systems.split(",")) if options.systems else {each.name for each in systems.SYSTEMS}
    chosen = {each.name: each for each in systems.SYSTEMS if each.name in names}
    await _calibrate(store, [each for each in systems.PEERS if each.name in chosen], options)
    capacities = {mixed: _best(state["calibration"], mixed) for mixed in (True, False)}
    seconds = options.minutes * 60 - (time.monotonic() - began)
    if state["scale"] is None:
        fitted = plan.scale_for(seconds, capacities, systems=len(chosen), rounds=options.rounds)
        state["scale"] = 0.0 if options.quick else fitted
    for block, name in plan.visits(tuple(chosen), options.rounds):
        if store.has(name, block):
            continue
        if not options.quick and time.monotonic() - began > options.minutes * 60:
            say(f"out of time: {name}, block {block}, is left out")
            continue
        await _visit(store, chosen[name], block, capacities, options.quick)


async def _calibrate(store: Store, peers: list[systems.System], options: argparse.Namespace) -> None:
    counts = {True: (2, 2), False: (4, 4)} if options.quick else measure.CALIBRATION
    done = {each["system"] for each in store.state["calibration"]}
    for peer in peers:
        if peer.name not in done:
            say(f"capacity of {peer.name}")
            try:
                store.state["calibration"].append(await measure.calibrate(peer, WORK, counts))
            except systems.SystemFailedError as error:
                say(f"{error}")
                store.state["failed"].append(f"{peer.name}: capacity")
            store.save()
    if not store.state["calibration"]:
        raise SystemExit("no peer could be started")


async def _visit(store: Store, system: systems.System, block: int, capacities: dict[bool, float], quick: bool) -> None:
    loads = tuple(load for load in plan.loads() if not quick or load.name in report.QUICK_LOADS)
    reference = store.state["calibration"][0]["pixels"]
    for attempt in range(_TRIES):
        say(f"{system.name}, block {block}")
        try:
            records = await measure.visit(
                system,
                WORK,
                block,
                capacities=capacities,
                scale=store.state["scale"],
                loads=loads,
                reference=reference,
                say=say,
            )
        except systems.SystemFailedError as error:
            say(f"{error}")
            if attempt == _TRIES - 1:
                store.state["failed"].append(f"{system.name}: block {block}")
        else:
            store.state["records"].extend(records)
            break
    store.save()


def _best(calibration: Sequence[dict[str, Any]], mixed: bool) -> float:
    return max(float(each["capacity"][str(mixed)]) for each in calibration)


if __name__ == "__main__":
    sys.exit(main())
