"""A request and a picture to encode."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest

from imagegen_server import core
from support import generations

REQUEST = dataclasses.replace(
    generations.REQUEST,
    model="sdxl",
    width=37,
    height=21,
    num_images=2,
    seed=41,
    min_progress_interval=0.1,
    parameters={"prompt": "a red circle on a blue background", "request_id": "r-1"},
)

MakeRequest = Callable[..., core.GenerationRequest]


@pytest.fixture
def make_request() -> MakeRequest:
    """Returns a maker of requests: `output` takes keywords of OutputSettings, the rest replaces fields."""

    def make(*, output: dict[str, Any] | None = None, **changes: Any) -> core.GenerationRequest:
        settings = dataclasses.replace(REQUEST.output, **(output or {}))
        return dataclasses.replace(REQUEST, output=settings, **changes)

    return make


@pytest.fixture
def pixels() -> core.Pixels:
    """An image of odd size with a gradient, an edge and noise."""
    noise = random.Random(3)
    rows = bytearray()
    for y in range(21):
        for x in range(37):
            rows += bytes((x * 6 % 256, y * 12 % 256, 255 if x > 18 else noise.randrange(256)))
    return core.Pixels(width=37, height=21, data=bytes(rows))
