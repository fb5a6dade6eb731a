"""A real Prometheus that scrapes what a test started, and its HTTP API."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imagegen_server.observe.prometheus import running

RULES: Final = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "rules"
JOB: Final = "imagegen-server"
"""The job that the rules know the servers by."""


class QueryError(Exception):
    """Prometheus refused a query; the message is its own."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Series:
    """One series of an answer."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """Unix time and value, ascending in time; one of them if a single instant was asked for."""


class Prometheus:
    """The HTTP API of a Prometheus at an address such as http://127.0.0.1:9090."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")

    @property
    def address(self) -> str:
        """Where it is, such as http://127.0.0.1:9090."""
        return self._address

    def instant(self, expr: str, at: float | None = None) -> list[Series]:
        """Returns what an expression is at a Unix time, or now. Raises QueryError for one that is wrong."""
        found = self._get("query", {"query": expr} | ({} if at is None else {"time": f"{at:.3f}"}))
        if found["resultType"] == "scalar":
            return [Series(labels={}, points=[_point(found["result"])])]
        return [Series(labels=series["metric"], points=[_point(series["value"])]) for series in found["result"]]

    def range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """Returns what an expression is from one Unix time to another, every `step` seconds. Raises QueryError."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        found = self._get("query_range", {"query": expr} | times)["result"]
        return [Series(labels=series["metric"], points=[*map(_point, series["values"])]) for series in found]

    def _get(self, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        url = f"{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - the caller's address
                data: dict[str, Any] = json.load(answer)["data"]
                return data
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(error.read().decode(errors="replace")) from error


@contextmanager
def prometheus(directory: Path, *targets: str, scrape_seconds: int = 1) -> Iterator[Prometheus]:
    """Runs a Prometheus with the project's rules that scrapes host:port targets as the job JOB.

    Args:
        directory: for its configuration, data and log.
        targets: metrics ports of servers.
        scrape_seconds: between scrapes, and between evaluations of the rules.

    The test is skipped if there is none. Raises PrometheusDidNotStart with its log if it does not start.
    """
    from support.promtool import program  # needs pytest, which those who only ask a Prometheus lack

    executable = program("prometheus")
    every = f"{scrape_seconds}s"
    configuration = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(RULES / "*.yml")],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": list(targets)}]}],
    }
    file = directory / "prometheus.json"
    file.write_text(json.dumps(configuration), encoding="utf-8")  # JSON is YAML
    with running(executable, file, directory) as found:
        yield Prometheus(found.url)


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
