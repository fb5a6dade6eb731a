"""What is printed: where to look, how far it is, and what Prometheus saw."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TextIO

from imagegen_server.core import Outcome, Stage
from imagegen_server.local import Serving
from imagegen_server.observe.load import Ended
from imagegen_server.observe.prometheus import Prometheus, Series
from imagegen_server.telemetry.metrics import STAGE_DURATION

GRAPHS: Final = {
    "generations/s, by outcome": "sum by (model, outcome) (rate(imagegen_request_duration_seconds_count[30s]))",
    "p95 of each stage": "histogram_quantile(0.95, sum by (le, model, stage) "
    "(rate(imagegen_stage_duration_seconds_bucket[30s])))",
    "steps/s, by stage": "sum by (model, stage) (rate(imagegen_stage_steps_total[30s]))",
    "queue": "imagegen_requests_queued",
    "wasted device time": "sum by (reason) (rate(imagegen_wasted_device_seconds_total[30s]))",
    "GPU temperature": "imagegen_gpu_temperature_celsius",
}
"""What one may want to see first, as PromQL."""
OUTCOMES: Final = "sum by (model, outcome) (imagegen_request_duration_seconds_count)"
STAGE_P95: Final = (
    'histogram_quantile(0.95, sum by (le, model, stage) (imagegen_stage_duration_seconds_bucket{outcome="ok"}))'
)
FALLBACKS: Final = "sum by (reason) (imagegen_fallbacks_total)"
REJECTED: Final = "sum by (reason) (imagegen_rejected_total)"
_NONE: Final = "\N{EN DASH}"
_PACE: Final = 5.0
"""Seconds between two lines of progress where lines cannot be written over."""


def where_to_look(prometheus: Prometheus, servers: Sequence[tuple[str, Serving]]) -> str:
    """Returns the addresses of everything, for people. `servers` are names and servers."""
    lines = [f"Prometheus   {prometheus.url}", f"  alerts     {prometheus.url}/alerts"]
    lines += [f"  {name}:\n    {prometheus.graph(expression)}" for name, expression in GRAPHS.items()]
    for name, server in servers:
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        lines += [
            f"server       {server.address}, {name}",
            f"  metrics    {url}",
            f"  live       {_command()} top --url {url}",
        ]
    lines.append("dashboards   Grafana and the rest: docker compose -f deploy/compose.yaml up --build --wait")
    return "\n".join(lines)


def _command() -> str:
    """Returns how to call imagegen-server from any shell: the environment that this runs in need not be activated."""
    beside = Path(sys.executable).with_name("imagegen-server")
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m imagegen_server"


class Progress:
    """Counts calls as they end, and shows the counts now and then."""

    def __init__(self, out: TextIO) -> None:
        """Args: where to write; a terminal gets one line that changes."""
        self._out = out
        self._counts: Counter[str] = Counter()
        self._began = self._shown = time.monotonic()

    def ended(self, call: Ended) -> None:
        """Counts a call."""
        self._counts[call.outcome] += 1
        now = time.monotonic()
        terminal = self._out.isatty()
        if now - self._shown >= (0.2 if terminal else _PACE):
            self._shown = now
            line = f"  {now - self._began:4.0f} s  {_counts((o, self._counts[o]) for o in Outcome)}"
            self._out.write(f"\r\x1b[K{line}" if terminal else f"{line}\n")
            self._out.flush()

    def finish(self) -> None:
        """Ends the line that changes."""
        if self._out.isatty():
            self._out.write("\r\x1b[K")


def what_was_seen(prometheus: Prometheus) -> str:
    """Returns what Prometheus has to tell of the servers, for people."""
    outcomes, stages = prometheus.instant(OUTCOMES), prometheus.instant(STAGE_P95)
    lines = ["generations"]
    for model in sorted({series.labels["model"] for series in outcomes}):
        found = {each.labels["outcome"]: each.value for each in outcomes if each.labels["model"] == model}
        lines.append(f"  {model:14}{_counts((outcome, found.get(outcome, 0.0)) for outcome in Outcome)}")
    lines.append("p95 of a stage that ended well, in seconds")
    models = sorted({series.labels["model"] for series in stages})
    lines.append("".join([" " * 16, *(f"{model:>12}" for model in models)]))
    lines += [_stage_line(stage, models, stages) for stage in Stage]
    lines.append(f"fallbacks       {_by_reason(prometheus.instant(FALLBACKS))}")
    lines.append(f"refusals        {_by_reason(prometheus.instant(REJECTED))}")
    alerts = prometheus.alerts()
    lines += [f"alerts {state:<9}{_names(alerts, state)}" for state in ("firing", "pending")]
    return "\n".join(lines)


def _stage_line(stage: Stage, models: Iterable[str], stages: Sequence[Series]) -> str:
    found = {(each.labels["model"], each.labels["stage"]): each.value for each in stages}
    return f"  {stage:14}" + "".join(f"{_told(found.get((model, stage), math.nan)):>12}" for model in models)


def _told(seconds: float) -> str:
    """Returns a stage's quantile as far as the histogram tells it: a bound in its first bucket and beyond its last."""
    first, last = STAGE_DURATION.buckets[0], STAGE_DURATION.buckets[-1]
    if math.isnan(seconds):
        return _NONE
    if seconds <= first:
        return f"< {first:g}"
    return f"> {last:g}" if seconds >= last else f"{seconds:.2f}"


def _by_reason(found: Sequence[Series]) -> str:
    return _counts((series.labels["reason"], series.value) for series in found)


def _counts(pairs: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in pairs if value) or "none"


def _names(alerts: Sequence[dict[str, str]], state: str) -> str:
    names = Counter(
        f"{alert['alertname']} ({alert.get('severity', '')})" for alert in alerts if alert["state"] == state
    )
    return f"\n{'':16}".join(sorted(names)) or "none"
