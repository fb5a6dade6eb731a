"""A real Prometheus that scrapes what a test started."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from imagegen_server.observe.prometheus import Prometheus, running
from support.promtool import program

RULES: Final = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "rules"
JOB: Final = "imagegen-server"
"""The job that the rules know the servers by."""
EDGE_JOB: Final = "imagegen-http"
"""And the HTTP edge."""


@contextmanager
def prometheus(
    directory: Path, *targets: str, edges: Sequence[str] = (), scrape_seconds: int = 1
) -> Iterator[Prometheus]:
    """Runs a Prometheus with the project's rules that scrapes host:port targets as the job JOB.

    Args:
        directory: for its configuration, data and log.
        targets: metrics ports of servers.
        edges: those of Envoys, which are scraped as the job EDGE_JOB.
        scrape_seconds: between scrapes, and between evaluations of the rules.

    The test is skipped if there is none. Raises PrometheusDidNotStart with its log if it does not start.
    """
    every = f"{scrape_seconds}s"
    configuration = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(RULES / "*.yml")],
        "scrape_configs": [
            {"job_name": JOB, "static_configs": [{"targets": list(targets)}]},
            {
                "job_name": EDGE_JOB,
                "metrics_path": "/stats/prometheus",
                "static_configs": [{"targets": list(edges)}],
            },
        ],
    }
    file = directory / "prometheus.json"
    file.write_text(json.dumps(configuration), encoding="utf-8")  # JSON is YAML
    with running(program("prometheus"), file, directory) as found:
        yield found
