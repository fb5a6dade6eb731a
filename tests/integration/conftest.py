"""The embedded pair, and a server that says what a test tells it, for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen_server import shapes
from support.scripted_service import ScriptedService, serving


@pytest.fixture(scope="session")
def shapes_directory() -> Path:
    """The directory with the pair in diffusers' format, base/ and refiner/. Not to be written to."""
    return shapes.DIRECTORY


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    """A running server, on threads of its own."""
    with serving(ScriptedService()) as running:
        yield running
