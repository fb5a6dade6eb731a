"""The dashboards are what the code renders, ask only for what exists, and show everything that there is."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import rendered
from imagegen_server.telemetry.metrics import CATALOGUE, Kind
from support import promql, rules

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
DASHBOARDS = rendered.dashboards()
RECORDED = {rule.name for rule in rules.load_rules() if not rule.alert}
SERIES = {
    f"{metric.name}{suffix}": metric
    for metric in CATALOGUE
    for suffix in (("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",))
}
"""Every name that a metric of the catalogue has in a query."""
VARIABLES = frozenset({"job", "instance", "model"})
GRID_WIDTH = 24
LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)


def _queries() -> list[rendered.PanelQuery]:
    return [query for dashboard in DASHBOARDS for query in rendered.queries(dashboard)]


def _panel_queries() -> list[rendered.PanelQuery]:
    return [query for query in _queries() if query.type != rendered.VARIABLE]


def _selectors(query: rendered.PanelQuery) -> list[promql.Selector]:
    return promql.selectors(rendered.bound(query.expr))


def _where(query: rendered.PanelQuery) -> str:
    return f"{query.dashboard}, {query.title} {query.ref_id}"


def _links() -> Iterator[tuple[str, str]]:
    """Yields the panel and the address of each link of a panel."""
    for dashboard in DASHBOARDS:
        for _, panel in rendered.panels(dashboard):
            for link in panel["links"]:
                yield f"{dashboard.stem}, {panel['title']}", link["url"]


def _labels_of(name: str) -> frozenset[str]:
    """Returns the labels of a series that exists: of the catalogue, recorded, or Prometheus' own."""
    if name in RECORDED:  # its name begins with them
        return frozenset({"job", *name.partition(":")[0].split("_")})
    if name in SERIES:
        return rules.TARGET_LABELS | set(SERIES[name].labels)
    return rules.TARGET_LABELS if name == "up" else frozenset()


def test_the_committed_files_are_what_the_code_renders(tmp_path: Path) -> None:
    """`make dashboards` leaves no difference."""
    subprocess.run([sys.executable, str(GRAFANA / "render.py"), "--output", str(tmp_path)], check=True)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert len(made) == 2
    assert {path.name: path.read_text(encoding="utf-8") for path in rendered.DIRECTORY.iterdir()} == made


@every_dashboard
def test_each_panel_says_what_it_shows(dashboard: Path) -> None:
    """A title, a description that is a sentence, a unit, the chosen data source; names are unique within a row."""
    titles = []
    for row, panel in rendered.panels(dashboard):
        titles.append((row, panel["title"]))
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for what in (panel, *panel["targets"]):
            assert what["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    assert len(titles) == len(set(titles))


@every_dashboard
def test_the_variables_are_these(dashboard: Path) -> None:
    """A data source, and what narrows queries; each variable's choice narrows the next one's."""
    variables = rendered.load(dashboard)["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", "job", "instance", "model"]
    assert '"$job"' in variables[2]["query"]["query"]
    assert '"$instance"' in variables[3]["query"]["query"]


@every_dashboard
def test_panels_lie_on_the_grid_without_overlap_or_holes(dashboard: Path) -> None:
    """Each cell of the grid belongs to one panel, and every row of panels is full unless it is the last of its row."""
    taken: dict[tuple[int, int], str] = {}
    identities = []
    for panel in rendered.load(dashboard)["panels"]:
        at = panel["gridPos"]
        identities.append(panel["id"])
        assert at["x"] + at["w"] <= GRID_WIDTH, panel["title"]
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    assert len(identities) == len(set(identities))
    for line in range(max(y for _, y in taken)):
        columns = {x for x, y in taken if y == line}
        assert columns == set(range(len(columns))), f"line {line} has a hole"


def test_queries_read_what_exists() -> None:
    """Metrics, labels, and label values."""
    known = rules.Known(RECORDED)
    wrong = []
    for query in _queries():
        for selector in _selectors(query):
            matches = tuple(match for match in selector.matches if match[0] not in VARIABLES)
            problem = known.problem(dataclasses.replace(selector, matches=matches))
            wrong += [(_where(query), problem)] if problem else []
    assert wrong == []


def test_queries_are_narrowed_by_every_variable_that_their_series_have_a_label_for() -> None:
    """Two deployments in one Prometheus are never summed by mistake."""
    wrong = []
    for query in _panel_queries():
        for selector in _selectors(query):
            variables = _labels_of(selector.name) & VARIABLES
            for matchers in re.findall(rf"(?<![\w:]){re.escape(selector.name)}(\{{[^}}]*\}})?", query.expr):
                wrong += [(_where(query), label) for label in variables if f'{label}=~"${label}"' not in matchers]
    assert wrong == []


def test_legends_name_labels_that_the_query_keeps() -> None:
    """A series' name is not empty because the label was summed away."""
    wrong = []
    for query in _panel_queries():
        kept = promql.grouped_labels(rendered.bound(query.expr))
        for selector in _selectors(query):
            if ":" in selector.name:  # recorded: already summed
                kept |= _labels_of(selector.name)
        wrong += [(_where(query), label) for label in LEGEND_LABEL.findall(query.legend) if label not in kept]
    assert wrong == []


def test_every_metric_is_shown() -> None:
    """What no panel shows has no place in the catalogue."""
    shown = {SERIES.get(selector.name) for query in _queries() for selector in _selectors(query)}
    assert [metric.name for metric in CATALOGUE if metric not in shown] == []


def test_links_lead_to_the_alerts_runbook_and_every_alert_has_a_panel() -> None:
    """The addresses are those that the alerts carry."""
    addresses = {rule.annotations["runbook_url"] for rule in rules.load_rules() if rule.alert}
    assert [(panel, url) for panel, url in _links() if url not in addresses] == []
    assert sorted(addresses - {url for _, url in _links()}) == []


def test_links_lead_to_headings_of_the_runbook() -> None:
    """The anchor is a heading, in lower case as anchors are."""
    anchors = rules.headings(rules.RUNBOOK.read_text(encoding="utf-8"))
    assert [(panel, url) for panel, url in _links() if url.partition("#")[2] not in anchors] == []


def test_objectives_have_the_budgets_of_the_alerts() -> None:
    """The rows of error budgets divide by what the burn-rate alerts multiply with."""
    allowed: dict[str, set[str]] = {}
    for rule in rules.load_rules():
        if "slo" in rule.labels:
            allowed.setdefault(rule.labels["slo"], set()).update(re.findall(r"\* ([\d.]+)\)", rule.expr))
    shown: dict[str, set[str]] = {}
    for query in _queries():
        if query.row == "Objectives":
            shown.setdefault(query.title.rpartition(" ")[2], set()).add(query.expr.rpartition("/ ")[2])
    assert shown == allowed
    assert len(shown) == 3


def test_provisioning_finds_the_dashboards_and_knows_their_data_source() -> None:
    """Each dashboard is a whole JSON document with an identity of its own, and its variables can find a data source."""
    loaded: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS]
    assert [board["uid"] for board in loaded] == [path.stem for path in DASHBOARDS]
    text = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text(encoding="utf-8")
    sources = yaml.safe_load(text)["datasources"]
    assert [source["type"] for source in sources if source.get("isDefault")] == ["prometheus"]
