"""How a generation of a simulated engine ended."""

from __future__ import annotations

from imagegen_server.core import FallbackKind
from imagegen_server.engine import Finished
from support.simulation import World

NO_FALLBACK: frozenset[FallbackKind] = frozenset()
"""What a caller allows who wants nothing but what was asked for."""


def finished(world: World, request_id: str) -> Finished:
    """Returns the last event of a generation."""
    last = world.seen[request_id][-1].event
    assert isinstance(last, Finished)
    return last
