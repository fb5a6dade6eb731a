"""Renders the dashboards to the JSON that Grafana is provisioned with. `make dashboards` runs it.

python deploy/grafana/render.py                 writes deploy/grafana/rendered/*.json
python deploy/grafana/render.py --output DIR    writes elsewhere
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import gpu, rendered, service


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes every dashboard and returns the exit status, 0."""
    parser = argparse.ArgumentParser(description="Renders the Grafana dashboards to JSON.")
    parser.add_argument("--output", type=Path, default=rendered.DIRECTORY, help="directory to write to")
    directory: Path = parser.parse_args(arguments).output
    directory.mkdir(parents=True, exist_ok=True)
    for dashboard in (service.dashboard(), gpu.dashboard()):
        text = JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(dashboard)
        (directory / f"{dashboard.uid}.json").write_text(f"{text}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
