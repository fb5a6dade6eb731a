"""What all dashboards have in common: variables, alerts as annotations, links to each other, numbered panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.models import dashboard

from dashboards.panels import DATASOURCE, Panel
from dashboards.queries import TARGET_MATCHERS
from imagegen_server.telemetry import metrics as m

TAG: Final = "imagegen"
ALL: Final = dashboard.VariableOption(text="All", value="$__all", selected=True)


@dataclass(kw_only=True, frozen=True, slots=True)
class Row:
    """A row of panels."""

    title: str
    panels: Sequence[Panel]


def build(uid: str, title: str, description: str, rows: Sequence[Row]) -> dashboard.Dashboard:
    """Returns a dashboard; `uid` is the end of its address and must never change."""
    builder = (
        builders.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .annotation(_alerts())
        .link(_siblings())
    )
    for variable in _variables():
        builder = builder.with_variable(variable)
    number = 0
    for row in rows:
        number += 1
        builder = builder.with_row(builders.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            builder = builder.with_panel(panel.id(number))
    return builder.build()


def _variables() -> list[builders.DatasourceVariable | builders.QueryVariable]:
    """Returns the variables. A job has to be chosen: `grpc_server_…` and `up` are names that other services use too."""
    info = m.BUILD_INFO.name
    return [
        builders.DatasourceVariable("datasource")
        .label("Data source")
        .description("Where the metrics are kept.")
        .type("prometheus"),
        _query("job", "Job", "Scrape job of the servers.", f"label_values({info}, job)"),
        _query("instance", "Instance", "Server.", f'label_values({info}{{job=~"$job"}}, instance)')
        .include_all(True)
        .all_value(".*")
        .current(ALL),
        _query("model", "Model", "Model profile.", f"label_values({m.QUEUE_CAPACITY.name}{{{TARGET_MATCHERS}}}, model)")
        .include_all(True)
        .all_value(".*")
        .current(ALL),
    ]


def _query(name: str, label: str, description: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": name})
        .definition(query)
        .multi(True)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    )


def _alerts() -> builders.AnnotationQuery:
    """Returns the annotation that marks when an alert fired."""
    expr = 'ALERTS{alertname=~"ImageGen.*",alertstate="firing"}'
    return (
        builders.AnnotationQuery()
        .name("Alerts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("red")
        .target(prometheus.Dataquery().expr(expr).ref_id("Anno").datasource(DATASOURCE))
        .expr(expr)
        .title_format("{{alertname}}")
        .text_format("{{instance}}")
        .tag_keys("severity")
    )


def _siblings() -> builders.DashboardLink:
    return (
        builders.DashboardLink("ImageGen")
        .type(dashboard.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )
