"""The embedded pair for all integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen_server import shapes


@pytest.fixture(scope="session")
def shapes_directory() -> Path:
    """The directory with the pair in diffusers' format, base/ and refiner/. Not to be written to."""
    return shapes.DIRECTORY
