"""Draws the dashboards for the documentation from what a Prometheus holds, without Grafana.

    python deploy/grafana/draw.py --prometheus http://127.0.0.1:9090 --minutes 10

One picture for each row of each dashboard: DIR/service-now.webp and so on. Other pictures in DIR are left alone.
"""

from __future__ import annotations

import argparse
import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path

from dashboards import rendered
from imagegen_server.observe.prometheus import Prometheus
from pictures import sheet
from pictures.answers import Window

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws every row and returns the exit status, 0."""
    options = _parser().parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    window = Window(start=options.end - 60 * options.minutes, end=options.end, scrape=options.scrape)
    prometheus = Prometheus(url=options.prometheus.rstrip("/"))
    for dashboard in rendered.dashboards():
        title = rendered.load(dashboard)["title"]
        for row, group in itertools.groupby(rendered.panels(dashboard), key=lambda found: found[0]):
            file = options.output / f"{_slug(dashboard.stem.removeprefix('imagegen-'))}-{_slug(row)}.webp"
            sheet.draw(prometheus, f"{title} · {row}", [panel for _, panel in group], window, file)
            print(f"{file} {file.stat().st_size // 1024} KiB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Draws the dashboards from what a Prometheus holds.")
    parser.add_argument(
        "--prometheus", default="http://127.0.0.1:9090", metavar="URL", help="address (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="how far back (default: %(default)s)")
    parser.add_argument(
        "--end", type=float, default=time.time(), metavar="TIME", help="Unix time of the end (default: now)"
    )
    parser.add_argument(
        "--scrape", type=float, default=15, metavar="N", help="seconds between scrapes (default: %(default)s)"
    )
    default = ROOT / "docs" / "images" / "observability"
    parser.add_argument("--output", type=Path, default=default, metavar="DIR", help="where to (default: %(default)s)")
    return parser


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


if __name__ == "__main__":
    raise SystemExit(main())
