"""What a PromQL expression reads. The checks of rules and dashboards against the metric catalogue rest on it."""

from __future__ import annotations

from dataclasses import dataclass

import promql_parser
from promql_parser import Expr, MatchOp, VectorSelector


@dataclass(kw_only=True, frozen=True, slots=True)
class Selector:
    """One selection of series."""

    name: str
    """The metric's name; a histogram's with its suffix."""
    equal: tuple[tuple[str, str], ...]
    """Label and value of the matchers with `=`."""
    matches: tuple[tuple[str, str], ...]
    """Label and regular expression of the matchers with `=~`."""
    labels: frozenset[str]
    """Every label that a matcher names."""


def metric_names(expr: str) -> set[str]:
    """Returns the names of the metrics that an expression selects.

    Grafana's variables have to be replaced first where they are no part of a string: `[$__rate_interval]` is no PromQL.
    Raises ValueError if the expression is not valid or selects series without naming one metric.
    """
    return {selector.name for selector in selectors(expr)}


def selectors(expr: str) -> list[Selector]:
    """Returns every selection of series in an expression, in its order. Raises ValueError as `metric_names` does."""
    return [_selector(node, expr) for node in _nodes(promql_parser.parse(expr)) if isinstance(node, VectorSelector)]


def grouped_labels(expr: str) -> set[str]:
    """Returns the labels that an expression aggregates by or without, or matches vectors on. Raises ValueError."""
    labels: set[str] = set()
    for node in _nodes(promql_parser.parse(expr)):
        modifier = getattr(node, "modifier", None)
        labels.update(getattr(modifier, "labels", None) or ())
        labels.update(getattr(modifier, "group_labels", None) or ())
        labels.update(getattr(getattr(modifier, "matching", None), "labels", None) or ())
    return labels


def _nodes(expr: Expr) -> list[Expr]:
    """Returns an expression and everything in it."""
    found: list[Expr] = []
    promql_parser.walk(expr, pre_visit=found.append)
    return found


def _selector(found: VectorSelector, expr: str) -> Selector:
    matchers = found.matchers.matchers
    name = found.name or next((m.value for m in matchers if m.name == "__name__" and m.op == MatchOp.Equal), None)
    if name is None or found.matchers.or_matchers:
        raise ValueError(f"a selector without one metric's name in {expr!r}")
    return Selector(
        name=name,
        equal=tuple((m.name, m.value) for m in matchers if m.op == MatchOp.Equal and m.name != "__name__"),
        matches=tuple((m.name, m.value) for m in matchers if m.op == MatchOp.Re),
        labels=frozenset(m.name for m in matchers) - {"__name__"},
    )
