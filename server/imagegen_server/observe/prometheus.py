"""A Prometheus of one's own for the length of a block, with the rules of deploy/prometheus and other targets.

And what any Prometheus answers to queries.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from imagegen_server.child import answers, free_port, ready_child

SOURCE: Final = Path(__file__).resolve().parents[3] / "deploy" / "prometheus"
"""The configuration that is used; there in a checkout only."""
START_SECONDS: Final = 60.0
"""How long Prometheus may take to be ready."""
_STOP_SECONDS: Final = 20.0
_TARGETS: Final = "targets/imagegen-server.yml"
"""Where SOURCE's prometheus.yml looks for the servers."""
_ANSWER_SECONDS: Final = 60.0
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Uses no proxy: the environment may name one that does not know this machine's ports."""


class PrometheusDidNotStart(Exception):
    """There is no Prometheus, or it ended, or took too long; the message says what to do or holds its log."""


class QueryError(Exception):
    """Prometheus refused a query; the message has its own."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Series:
    """One series of an answer."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """Unix time and value, ascending in time; one of them if a single instant was asked for."""

    @property
    def value(self) -> float:
        """The last value."""
        return self.points[-1][1]


@dataclass(kw_only=True, frozen=True, slots=True)
class Prometheus:
    """A running Prometheus, by its HTTP API."""

    url: str
    """Its address, such as http://127.0.0.1:9090, without a slash at the end."""

    def instant(self, expression: str, at: float | None = None) -> list[Series]:
        """Returns what an expression is at a Unix time, or now. Raises QueryError for one that is wrong."""
        found = self._get("query", {"query": expression} | ({} if at is None else {"time": f"{at:.3f}"}))
        if found["resultType"] == "scalar":
            return [Series(labels={}, points=[_point(found["result"])])]
        return [Series(labels=series["metric"], points=[_point(series["value"])]) for series in found["result"]]

    def range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """Returns what an expression is from one Unix time to another, every `step` seconds. Raises QueryError."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        found = self._get("query_range", {"query": expression} | times)["result"]
        return [Series(labels=series["metric"], points=[*map(_point, series["values"])]) for series in found]

    def alerts(self) -> list[dict[str, str]]:
        """Returns the labels of every alert that is pending or firing, and under `state` which of the two."""
        return [{**alert["labels"], "state": alert["state"]} for alert in self._get("alerts", {})["alerts"]]

    def graph(self, expression: str, range_: str = "5m") -> str:
        """Returns the address of a page that draws an expression over the last while."""
        return f"{self.url}/graph?" + urlencode({"g0.expr": expression, "g0.tab": "0", "g0.range_input": range_})

    def _get(self, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        try:
            with _OPENER.open(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=_ANSWER_SECONDS) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
                return data
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            reason = json.loads(text).get("error") if text.startswith("{") else text
            raise QueryError(f"Prometheus answers {error.code}: {reason}") from error


@contextlib.contextmanager
def prometheus(targets: Sequence[str], *, interval: str = "2s", source: Path = SOURCE) -> Iterator[Prometheus]:
    """Runs Prometheus on a free port of 127.0.0.1 with a data directory of its own, which is removed at the end.

    Args:
        targets: host:port of the metrics ports to scrape.
        interval: between two scrapes, and between two evaluations of the rules, as Prometheus writes durations.
        source: a directory like deploy/prometheus.

    Raises PrometheusDidNotStart.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise PrometheusDidNotStart(
            "this needs the program prometheus on PATH: `make prometheus` or `apt-get install prometheus` on Debian, "
            "`brew install prometheus` on macOS, or a download from https://prometheus.io/download/"
        )
    with tempfile.TemporaryDirectory() as folder:
        config = configure(Path(folder, "config"), targets, interval=interval, source=source)
        with running(program, config, Path(folder)) as found:
            yield found


@contextlib.contextmanager
def running(program: str, config: Path, directory: Path) -> Iterator[Prometheus]:
    """Runs Prometheus on a free port of 127.0.0.1 for the length of a block.

    Args:
        program: path of the executable.
        config: its configuration.
        directory: for its data and its log.

    Raises PrometheusDidNotStart.
    """
    address, log = f"127.0.0.1:{free_port()}", directory / "log"
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with ready_child(
        command,
        log,
        name="Prometheus",
        ready=lambda: answers(address, "/-/ready"),
        start_seconds=START_SECONDS,
        stop_seconds=_STOP_SECONDS,
        failure=PrometheusDidNotStart,
    ):
        yield Prometheus(url=f"http://{address}")


def configure(directory: Path, targets: Sequence[str], *, interval: str, source: Path = SOURCE) -> Path:
    """Copies the configuration to a directory, for other targets, without Alertmanager and at another interval.

    Returns the path of its prometheus.yml. Raises PrometheusDidNotStart if the source is not as expected.
    """
    try:
        shutil.copytree(source, directory)
    except (OSError, shutil.Error) as error:
        raise PrometheusDidNotStart(
            f"there is no configuration for Prometheus in {source}: run this in a checkout"
        ) from error
    config, found = directory / "prometheus.yml", directory / _TARGETS
    text, replaced = re.subn(
        r"^(\s*(?:scrape|evaluation)_interval:\s*)\S+", rf"\g<1>{interval}", config.read_text(), flags=re.MULTILINE
    )
    if replaced != 2 or not found.exists():
        raise PrometheusDidNotStart(f"{source} lacks an interval or the file {_TARGETS}, which are replaced here")
    config.write_text(text)
    for other in found.parent.iterdir():
        other.unlink()
    found.write_text(json.dumps([{"targets": list(targets)}]))  # JSON is YAML
    return config


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
