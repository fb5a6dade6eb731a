"""What all panels have in common: each has a data source, a unit, a description, and links to what an operator does."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.builders import heatmap as heatmap_builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

RUNBOOK: Final = "https://imagegen.example/deploy/runbook.md"
"""As in the alerts' runbook_url."""
DATASOURCE: Final = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT: Final = 8
"""Of a graph, in grid rows."""
STAT_HEIGHT: Final = 4
LOW: Final = 6
"""Of a panel with few lines."""

Panel = timeseries.Panel | stat.Panel | heatmap_builders.Panel | statetimeline.Panel | table.Panel
"""A builder of one panel."""
_Builder = TypeVar("_Builder", timeseries.Panel, stat.Panel, heatmap_builders.Panel, statetimeline.Panel, table.Panel)


class Unit(enum.StrEnum):
    """The units of the panels, as Grafana names them."""

    SECONDS = "s"
    BYTES = "bytes"
    BYTES_PER_SECOND = "binBps"
    RATIO = "percentunit"
    """0 to 1, shown as per cent."""
    COUNT = "short"
    REQUESTS_PER_SECOND = "reqps"
    PER_SECOND = "ops"
    CELSIUS = "celsius"
    WATTS = "watt"
    JOULES = "joule"
    HERTZ = "hertz"
    STATE = "bool"
    """0 or 1, shown as a word."""
    NUMBER = "none"


@dataclass(kw_only=True, frozen=True, slots=True)
class State:
    """How one value of a state is shown."""

    text: str
    color: str


GOOD, WARN, BAD, QUIET = "green", "orange", "red", "blue"
YES_IS_GOOD: Final = {0: State(text="no", color=BAD), 1: State(text="yes", color=GOOD)}
YES_IS_BAD: Final = {0: State(text="no", color=GOOD), 1: State(text="yes", color=BAD)}
YES_IS_A_WARNING: Final = {0: State(text="no", color=GOOD), 1: State(text="yes", color=WARN)}

Query = tuple[str, str]
"""PromQL and the name of its series."""
Thresholds = Sequence[tuple[float, str]]
"""Lower bounds and the colour from there on; below the first it is green."""


def graph(
    title: str,
    description: str,
    unit: Unit,
    *queries: Query,
    width: int = 8,
    height: int = HEIGHT,
    stack: bool = False,
    most: float | None = None,
    thresholds: Thresholds = (),
    colors: Mapping[str, str] | None = None,
    alerts: Sequence[str] = (),
) -> Panel:
    """Returns a panel of lines over time, from 0.

    Args:
        title: short.
        description: what is shown, and what it means when it moves.
        unit: of every query.
        queries: what is shown.
        width: of 24.
        height: in grid rows.
        stack: whether series add up.
        most: top of the axis, for ratios.
        thresholds: drawn as lines.
        colors: of series with these names.
        alerts: whose entries in the runbook the panel links to, without their prefix.
    """
    panel = (
        timeseries.Panel().min(0).fill_opacity(20 if stack else 8).line_width(1).show_points(common.VisibilityMode.AUTO)
    )
    panel = panel.span_nulls(False).legend(_legend()).tooltip(_tooltip())
    if stack:
        panel = panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel = panel.max(most)
    if thresholds:
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_steps(thresholds)).thresholds_style(style)
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel = panel.override_by_name(name, [dashboard.DynamicConfigValue(id_val="color", value=fixed)])
    return _finished(panel, title, description, unit, queries, width, height, alerts)


def heatmap(
    title: str, description: str, unit: Unit, expr: str, *, width: int = 8, alerts: Sequence[str] = ()
) -> Panel:
    """Returns a histogram's buckets over time; `unit` is that of the buckets."""
    color = (
        heatmap_builders.HeatmapColorOptions()
        .mode(heatmap_models.HeatmapColorMode.SCHEME)
        .scheme("Turbo")
        .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
    )
    panel = (
        heatmap_builders.Panel()
        .calculate(False)
        .color(color)
        .y_axis(heatmap_builders.YAxisConfig().unit(unit).axis_placement(common.AxisPlacement.LEFT))
        .cell_values(heatmap_builders.CellValues().unit(Unit.COUNT))
        .rows_frame(heatmap_builders.RowsHeatmapOptions().layout(common.HeatmapCellLayout.AUTO))
        .tooltip(heatmap_builders.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE).y_histogram(True))
    )
    panel = _described(panel, title, description, unit, width, HEIGHT, alerts)
    return panel.with_target(_target(0, (expr, "{{le}}")).format(PromQueryFormat.HEATMAP))


def number(
    title: str,
    description: str,
    unit: Unit,
    expr: str,
    *,
    width: int = 3,
    height: int = STAT_HEIGHT,
    thresholds: Thresholds = (),
    states: Mapping[int, State] | None = None,
    decimals: int | None = None,
    alerts: Sequence[str] = (),
) -> Panel:
    """Returns one value, as it is now, on a background that says how good it is."""
    panel = (
        stat.Panel()
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.BACKGROUND if thresholds or states else common.BigValueColorMode.VALUE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_steps(thresholds, below=GOOD if thresholds else QUIET))
        .no_value("-")
    )
    if states:
        panel = panel.mappings([_mapping(states)])
    if decimals is not None:
        panel = panel.decimals(decimals)
    panel = _described(panel, title, description, unit, width, height, alerts)
    return panel.with_target(_target(0, (expr, title)).instant())


def timeline(
    title: str,
    description: str,
    *queries: Query,
    states: Mapping[int, State],
    width: int = 12,
    height: int = HEIGHT,
    alerts: Sequence[str] = (),
) -> Panel:
    """Returns states over time, a band for each series."""
    panel = (
        statetimeline.Panel()
        .show_value(common.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(80)
        .legend(_legend())
        .mappings([_mapping(states)])
    )
    return _finished(panel, title, description, Unit.STATE, queries, width, height, alerts)


def facts(title: str, description: str, unit: Unit, expr: str, columns: Sequence[str], *, width: int = 12) -> Panel:
    """Returns the labels of info series as a table; `columns` are the labels shown, in this order.

    `expr` gives one series for each line, whose value is shown last in `unit`.
    """
    hidden = ["Time", "job", "__name__"]
    organize = dashboard.DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": dict.fromkeys(hidden, True),
            "indexByName": {name: index for index, name in enumerate((*columns, "Value"))},
            "renameByName": {},
        },
    )
    panel = table.Panel().with_transformation(organize)
    panel = _described(panel, title, description, unit, width, LOW, ())
    return panel.with_target(_target(0, (expr, "")).instant().format(PromQueryFormat.TABLE))


def _finished(
    panel: _Builder,
    title: str,
    description: str,
    unit: Unit,
    queries: Sequence[Query],
    width: int,
    height: int,
    alerts: Sequence[str],
) -> _Builder:
    panel = _described(panel, title, description, unit, width, height, alerts)
    for index, query in enumerate(queries):
        panel = panel.with_target(_target(index, query))
    return panel


def _described(
    panel: _Builder,
    title: str,
    description: str,
    unit: Unit,
    width: int,
    height: int,
    alerts: Sequence[str],
) -> _Builder:
    panel = panel.title(title).description(description).unit(unit).datasource(DATASOURCE).span(width).height(height)
    return panel.links([_runbook(alert) for alert in alerts])


def _runbook(alert: str) -> dashboard_builders.DashboardLink:
    """Returns the link to an alert's entry, whose anchor is the alert's name as GitHub makes anchors of headings."""
    link = dashboard_builders.DashboardLink(f"Runbook: {alert}").type(dashboard.DashboardLinkType.LINK)
    return link.url(f"{RUNBOOK}#imagegen{alert.lower()}").target_blank(True)


def _target(index: int, query: Query) -> prometheus.Dataquery:
    expr, legend = query
    target = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + index))
    return target.datasource(DATASOURCE).range()


def _steps(thresholds: Thresholds, below: str = GOOD) -> dashboard_builders.ThresholdsConfig:
    steps = [dashboard.Threshold(value=None, color=below)]
    steps += [dashboard.Threshold(value=value, color=color) for value, color in thresholds]
    return dashboard_builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _mapping(states: Mapping[int, State]) -> dashboard.ValueMap:
    options = {
        str(value): dashboard.ValueMappingResult(text=state.text, color=state.color, index=index)
        for index, (value, state) in enumerate(states.items())
    }
    return dashboard.ValueMap(options=options)


def _legend() -> common_builders.VizLegendOptions:
    legend = common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
    return legend.placement(common.LegendPlacement.BOTTOM).show_legend(True).calcs([])


def _tooltip() -> common_builders.VizTooltipOptions:
    return common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
