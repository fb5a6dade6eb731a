"""Every query of a rendered dashboard, and the query that Grafana would send for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).resolve().parents[1] / "rendered"
"""Where the rendered dashboards are."""
VARIABLE: Final = "variable"
"""`PanelQuery.type` of a query that lists a variable's values."""

_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+),\s*(?P<label>\w+)\)")
_REFERENCE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)")


@dataclass(kw_only=True, frozen=True, slots=True)
class PanelQuery:
    """One query, as it stands in the dashboard."""

    dashboard: str
    """The dashboard's title."""
    row: str
    """Title of the row that the panel is in; empty for variables."""
    title: str
    """The panel's title, or the variable's name."""
    type: str
    """The panel's type, such as timeseries, stat or heatmap; VARIABLE for a variable's."""
    ref_id: str
    """A, B, … within the panel; empty for variables."""
    expr: str
    """PromQL with Grafana's variables in it. For a variable `group by (label) (selector)`, which has one series for
    each value that `label_values(selector, label)` lists."""
    unit: str
    """Grafana's name of the unit; empty for variables."""
    description: str
    legend: str
    """Template of a series' name."""
    instant: bool
    """Whether only the value at the end of the time range is asked for."""


def dashboards() -> list[Path]:
    """Returns the rendered dashboards, sorted by name."""
    return sorted(DIRECTORY.glob("*.json"))


def load(dashboard: Path) -> dict[str, Any]:
    """Returns a rendered dashboard."""
    loaded: dict[str, Any] = json.loads(dashboard.read_text(encoding="utf-8"))
    return loaded


def panels(dashboard: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each panel that is no row, with the title of the row that it is in, in the order shown."""
    row = ""
    for panel in load(dashboard)["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            yield row, panel
        for inner in panel.get("panels", ()):
            yield row, inner


def queries(dashboard: Path) -> list[PanelQuery]:
    """Returns every query of a rendered dashboard: its variables' first, then the panels' in the order shown."""
    title = load(dashboard)["title"]
    found = [_of_variable(title, variable) for variable in _query_variables(dashboard)]
    return found + [
        PanelQuery(
            dashboard=title,
            row=row,
            title=panel["title"],
            type=panel["type"],
            ref_id=target["refId"],
            expr=target["expr"],
            unit=panel["fieldConfig"]["defaults"].get("unit", ""),
            description=panel.get("description", ""),
            legend=target.get("legendFormat", ""),
            instant=target.get("instant", False),
        )
        for row, panel in panels(dashboard)
        for target in panel["targets"]
    ]


def bound(expr: str, *, job: str = ".*", rate_interval: str = "1m", range_: str = "1h") -> str:
    """Returns a query with values in the place of variables, as Grafana sends it for all instances and models.

    Args:
        expr: of a PanelQuery.
        job: a job, or a regular expression for several.
        rate_interval: a PromQL duration of at least four scrape intervals.
        range_: the dashboard's time range, a PromQL duration.

    Raises KeyError for a variable that the dashboards do not have.
    """
    values = {
        "job": job,
        "instance": ".*",
        "model": ".*",
        "__rate_interval": rate_interval,
        "__interval": rate_interval,
        "__range": range_,
    }
    return _REFERENCE.sub(lambda found: values[found[1] or found[2]], expr)


def _query_variables(dashboard: Path) -> list[dict[str, Any]]:
    return [variable for variable in load(dashboard)["templating"]["list"] if variable["type"] == "query"]


def _of_variable(dashboard: str, variable: dict[str, Any]) -> PanelQuery:
    """Returns the query behind a variable. Raises ValueError if it is no label_values(selector, label)."""
    text = variable["query"]["query"]
    match = _LABEL_VALUES.fullmatch(text)
    if match is None:
        raise ValueError(f"{variable['name']}: {text} is no label_values(selector, label)")
    return PanelQuery(
        dashboard=dashboard,
        row="",
        title=variable["name"],
        type=VARIABLE,
        ref_id="",
        expr=f"group by ({match['label']}) ({match['selector']})",
        unit="",
        description=variable.get("description", ""),
        legend=f"{{{{{match['label']}}}}}",
        instant=True,
    )
