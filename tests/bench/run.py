"""Measures the service against plain diffusers on this machine's CPU. `make bench` runs it.

    PYTHONPATH=tests python -m bench.run            rewrites the tables of docs/benchmarks.md and docs/benchmarks.json
    PYTHONPATH=tests python -m bench.run --quick    shows in a minute that it works; writes to build/bench

Ratios of paired samples, never absolute times: see docs/benchmarks.md. Exit status 0 once everything was measured,
whatever came out.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import encoding, machine, observers, overhead, previews, report, serving
from bench.arms import open_arms
from bench.rows import Row
from bench.say import say
from bench.suite import QUICK, Effort, compare

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    effort = QUICK if options.quick else Effort()
    directory = options.output or (ROOT / "build" / "bench" if options.quick else ROOT / "docs")
    directory.mkdir(parents=True, exist_ok=True)

    before = machine.load()
    rows, torch_threads = asyncio.run(_measure(effort))
    overheads = overhead.measure(effort.pairs)
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine.describe(),
        "torch_threads": torch_threads,
        "server": serving.start_and_memory(1 if options.quick else serving.STARTS),
        "load": {"before": before, "after": machine.load()},
        "effort": "quick" if options.quick else "full",
    }
    text = report.section(record, rows, overheads)
    (directory / "benchmarks.json").write_text(report.to_json(record, rows, overheads), encoding="utf-8")
    page = directory / "benchmarks.md"
    if not page.exists():
        page.write_text(f"{report.BEGIN}\n{report.END}\n", encoding="utf-8")
    report.write(page, text)
    say(f"\n{text}\n\nwritten: {page} and {directory / 'benchmarks.json'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and small samples, to see that everything runs")
    parser.add_argument("--output", type=Path, help="directory to write to instead of docs, or of build/bench")
    return parser


async def _measure(effort: Effort) -> tuple[list[Row], int]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as directory:
        async with open_arms(Path(directory)) as arms:
            async for each in compare(arms, effort):
                rows.append(each)
                say(f"{each.name}: {each.what} {each.arms} {each.ratio.median:.2f}")
            torch_threads = arms.torch_threads
    rows.extend(await encoding.measure(effort.pairs))
    rows.append(await serving.delivery(effort.pairs))
    rows.append(previews.measure(effort.pairs))
    rows.extend(observers.measure(effort.pairs))
    return rows, torch_threads


if __name__ == "__main__":
    sys.exit(main())
