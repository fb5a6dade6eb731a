"""The alerting and recording rules, their promtool tests and the runbook, as data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry

from imagegen_server import api
from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.instruments import Metrics
from support.promql import Selector

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS: Final = DEPLOY / "prometheus"
RULES: Final = sorted((PROMETHEUS / "rules").glob("*.yml"))
PROMTOOL_TESTS: Final = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOK: Final = DEPLOY / "runbook.md"
TARGET_LABELS: Final = frozenset({"job", "instance"})
"""What Prometheus adds to every series that it scrapes."""
OTHERS: Final = frozenset({"up", "ALERTS"})
"""Metrics that Prometheus itself makes."""
ENVOY: Final = {
    "envoy_cluster_membership_healthy": frozenset({"envoy_cluster_name"}),
    "envoy_cluster_membership_total": frozenset({"envoy_cluster_name"}),
    "envoy_cluster_upstream_rq_xx": frozenset({"envoy_cluster_name", "envoy_response_code_class"}),
    "envoy_http_downstream_rq_xx": frozenset({"envoy_http_conn_manager_prefix", "envoy_response_code_class"}),
}
"""Metrics of the HTTP edge and their labels; tests/integration/test_http_edge_metrics.py reads them of a real Envoy."""

_SUFFIXES: Final = ("_bucket", "_sum", "_count")
_COLLECTED_VALUES: Final[dict[m.Metric, dict[str, tuple[str, ...]]]] = {
    m.GPU_THROTTLE: {"reason": closed_sets.THROTTLE_REASONS},
    m.GPU_ECC_ERRORS: {"type": closed_sets.ECC_TYPES},
    m.GPU_XID_ERRORS: {"xid": (*closed_sets.XIDS, closed_sets.OTHER_XID)},
    m.GPU_CLOCK: {"clock": closed_sets.GPU_CLOCKS},
}


@dataclass(kw_only=True, frozen=True, slots=True)
class Rule:
    """One rule."""

    name: str
    """The alert's, or that of the series that is recorded."""
    expr: str
    alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]


def load_rules() -> list[Rule]:
    """Returns every rule, in the order of the files."""
    return [_rule(raw) for path in RULES for group in _load(path)["groups"] for raw in group["rules"]]


def promtool_cases() -> tuple[Counter[str], Counter[str]]:
    """Returns how many promtool cases say of each alert that it fires, and how many that it does not."""
    fires: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    for block in _blocks():
        for case in block.get("alert_rule_test", ()):
            (fires if case.get("exp_alerts") else silent)[case["alertname"]] += 1
    return fires, silent


def promtool_values() -> list[str]:
    """Returns the expressions for which a promtool case names values."""
    cases = (case for block in _blocks() for case in block.get("promql_expr_test", ()))
    return [case["expr"] for case in cases if case.get("exp_samples")]


def headings(markdown: str) -> dict[str, str]:
    """Returns the headings of a text by the anchors that GitHub gives them, without what is in code blocks."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"): title for title in titles}


def entries(markdown: str) -> dict[str, str]:
    """Returns the runbook's entries: the text below each heading of the third level."""
    parts = re.split(r"^(#+) (.+)$", markdown, flags=re.MULTILINE)[1:]
    return {
        title: text for level, title, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True) if level == "###"
    }


class Known:
    """What a rule may select: the catalogue's metrics with their labels and values, and what is recorded."""

    def __init__(self, recorded: Iterable[str]) -> None:
        registry = CollectorRegistry()
        methods = [(method.type, method.service, method.method) for method in api.served_methods()]
        Metrics(registry, models=["sdxl"], methods=methods)
        self._series: dict[str, list[dict[str, str]]] = {}
        for family in registry.collect():
            for sample in family.samples:
                self._series.setdefault(sample.name, []).append(sample.labels)
        self._metrics = {name: metric for metric in m.CATALOGUE for name in _series_names(metric)}
        self._recorded = frozenset(recorded)

    def problem(self, selector: Selector) -> str | None:
        """Returns what is wrong with a selector: an unknown metric or label, or a value that no series has."""
        if selector.name in OTHERS:
            return None
        if selector.name in ENVOY:
            return self._unknown_label(selector, ENVOY[selector.name])
        if selector.name in self._recorded:
            return self._unknown_label(selector, _level(selector.name))
        metric = self._metrics.get(selector.name)
        if metric is None:
            return f"{selector.name} is neither in the catalogue nor recorded"
        labels = {*metric.labels, *(["le"] if selector.name.endswith("_bucket") else [])}
        return self._unknown_label(selector, labels) or self._unknown_value(metric, selector)

    @staticmethod
    def _unknown_label(selector: Selector, labels: Iterable[str]) -> str | None:
        unknown = selector.labels - {*labels, *TARGET_LABELS}
        return f"{selector.name} has no label {', '.join(sorted(unknown))}" if unknown else None

    def _unknown_value(self, metric: m.Metric, selector: Selector) -> str | None:
        """Compares with the series of a server that has just started, each alternative of a regular expression."""
        constant = [pair for pair in selector.equal if pair[0] not in TARGET_LABELS]
        choices = [[(label, value) for value in regex.split("|")] for label, regex in selector.matches]
        for chosen in product(*choices):
            wanted = dict([*constant, *chosen])
            if metric.collected:
                values = _COLLECTED_VALUES.get(metric, {})
                found = all(value in values.get(label, (value,)) for label, value in wanted.items())
            else:
                series = self._series.get(selector.name, ())
                found = any(wanted.items() <= labels.items() for labels in series) or not wanted
            if not found:
                return f"no series {selector.name} has {wanted}"
        return None


def _rule(raw: dict[str, Any]) -> Rule:
    alert = "alert" in raw
    return Rule(
        name=raw["alert" if alert else "record"],
        expr=raw["expr"],
        alert=alert,
        labels=raw.get("labels", {}),
        annotations=raw.get("annotations", {}),
    )


def _series_names(metric: m.Metric) -> tuple[str, ...]:
    return tuple(metric.name + suffix for suffix in _SUFFIXES) if metric.kind is m.Kind.HISTOGRAM else (metric.name,)


def _level(recorded: str) -> frozenset[str]:
    """Returns the labels that a recorded series has: its name begins with them, except `job`, which all have."""
    return frozenset(recorded.partition(":")[0].split("_")) | {"job"}


def _blocks() -> Iterator[dict[str, Any]]:
    for path in PROMTOOL_TESTS:
        yield from _load(path)["tests"]


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded
