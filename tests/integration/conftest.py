"""The embedded pair, built once for all integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shapes_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the pair in diffusers' format: base/ and refiner/."""
    from imagegen_server.models.shapes import build

    path = tmp_path_factory.mktemp("shapes")
    build(path)
    return path
