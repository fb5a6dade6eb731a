"""Fixtures of the edge's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.edge import Edge, running_edge


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """A serving edge with default settings in front of a scripted engine."""
    async with running_edge() as running:
        yield running
