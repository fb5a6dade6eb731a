"""Figures that tests measure, shown at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

Figures = dict[str, object]

MEASURED = pytest.StashKey[dict[str, Figures]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begins with none."""
    config.stash[MEASURED] = {}


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """What the test measured, by name; shown whether or not the test passes."""
    measured: Figures = {}
    yield measured
    request.config.stash[MEASURED][request.node.nodeid] = measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Shows the figures, a test a paragraph."""
    if not config.stash[MEASURED]:
        return
    terminalreporter.section("figures")
    for test, measured in config.stash[MEASURED].items():
        terminalreporter.write_line(test)
        for name, value in measured.items():
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            terminalreporter.write_line(f"  {name} = {shown}")
