"""What the GPU tests share: the site, and the figures that are written and shown at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu import site as sites
from gpu.figures import Figures, directory
from gpu.site import Site

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEY = pytest.StashKey[Figures]()
FIRST = ("test_speed", "test_tune", "test_memory", "test_ladder")
"""In this order, before the others: a rented GPU may be taken back at any time."""


def pytest_configure(config: pytest.Config) -> None:
    """Begins without figures."""
    config.stash[KEY] = Figures(directory(ROOT))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives the tests of this directory the device to themselves; skips them where the site is not there."""
    mine = [item for item in items if HERE in item.path.parents]
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item in mine and item.path.stem in FIRST else len(FIRST))
    reason = sites.why_not(sites.chosen()) if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.timeout(900))
        item.add_marker(pytest.mark.alone)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Writes and shows the figures, if there are any."""
    measured = config.stash[KEY]
    if not measured.tables:
        return
    terminalreporter.section("GPU figures")
    terminalreporter.write_line(measured.markdown())
    terminalreporter.write_line(f"\nwritten: {measured.write()}")


@pytest.fixture(scope="session")
def site() -> Site:
    """The device, and how much is asked of it."""
    return sites.chosen()


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest, site: Site) -> Figures:
    """Takes the figures."""
    from imagegen_server.models import device as devices
    from imagegen_server.models.loading import package_versions

    found: Figures = request.config.stash[KEY]
    info = devices.describe(devices.resolve(site.device))
    versions = package_versions()
    found.machine.update(
        device=info.name,
        driver=info.driver or "none",
        memory_gb=round(info.total_memory_bytes / 1e9, 1),
        model=site.profile,
        torch=versions["torch"],
        diffusers=versions["diffusers"],
    )
    return found
