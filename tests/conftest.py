"""Figures that tests measure, shown at the end of a run; and which files are run first."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from tqdm import tqdm

if find_spec("hypothesis") is not None:  # a machine that only runs tests/gpu need not have it
    from hypothesis import settings

    settings.register_profile("any clock", deadline=None)  # no test fails because the machine was busy
    settings.load_profile("any clock")

tqdm.monitor_interval = 0
"""Its thread reads a set while others change it, and a test in whose time a thread raises fails."""

Figures = dict[str, object]

_PROPERTY = "figures"
"""Under which a test's report carries its figures, from a worker process to the one that shows them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, each whole and in order: of two workers none has a long one left at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """What the test measured, by name; shown whether or not the test passes."""
    measured: Figures = {}
    yield measured
    request.node.user_properties.append((_PROPERTY, {name: _shown(value) for name, value in measured.items()}))


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the figures, a test a paragraph."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    ended = [report for report in reports if isinstance(report, pytest.TestReport) and report.when == "teardown"]
    measured = {report.nodeid: figures for report in ended for figures in _figures_of(report)}
    if not measured:
        return
    terminalreporter.section("figures")
    for test, figures in sorted(measured.items()):
        terminalreporter.write_line(test)
        for name, value in figures.items():
            terminalreporter.write_line(f"  {name} = {value}")


def _figures_of(report: pytest.TestReport) -> Iterator[dict[str, str]]:
    for name, value in report.user_properties:
        if name == _PROPERTY and isinstance(value, dict):
            yield value
