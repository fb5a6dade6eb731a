"""PNG encoding: the server's against Pillow's default, of the same 1024x1024 picture."""

from __future__ import annotations

import io
import time
from typing import Final

from bench.disturbance import Meter
from bench.loads import Paired, in_turns
from bench.rows import Row, row
from imagegen_server import output
from imagegen_server.core import Pixels

SIDE: Final = 1024
_GRAIN: Final = 6.0
"""Standard deviation of the grain in levels: a photograph's. Without it, every way of compressing looks too good."""


def picture(side: int = SIDE) -> Pixels:
    """Returns a picture with the statistics of a photograph: smooth shading, some edges, grain. Always the same."""
    import numpy as np

    draw = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / side
    shades = [np.sin(3 * x + 2 * y * channel) + np.cos(5 * y - channel) for channel in (1.0, 1.3, 1.7)]
    plane = np.stack(shades, axis=-1) * 50 + 128
    for _ in range(40):
        centre, radius = draw.random(2), 0.02 + 0.1 * draw.random()
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
        plane[inside] += draw.uniform(-60, 60, 3)
    # grain of neighbouring pixels is correlated, as a VAE's and a camera's is
    grain = draw.normal(0, _GRAIN, (side, side, 3))
    grain = (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) / 3**0.5
    return Pixels(width=side, height=side, data=np.clip(plane + grain, 0, 255).astype(np.uint8).tobytes())


async def measure(pairs: int) -> tuple[Row, Row]:
    """Returns the rows of time and of file size."""
    from support.pairs import request

    pixels, asked = picture(), request()
    sizes = {"ours": 0, "default": 0}

    async def ours() -> float:
        began = time.perf_counter()
        sizes["ours"] = len(output.encode(pixels, asked, 0).data)
        return time.perf_counter() - began

    async def default() -> float:
        began = time.perf_counter()
        sizes["default"] = by_default(pixels)
        return time.perf_counter() - began

    samples = await in_turns(ours, default, pairs, lambda: Meter(()))
    same = Paired(first=[sizes["ours"]], second=[sizes["default"]], others=0.0)  # equal arguments give equal bytes
    name, arms = f"PNG file of {SIDE}x{SIDE}", "ours/Pillow's default"
    return (
        row(name, what="time", arms=arms, samples=samples, unit="ms", scale=1e3),
        row(name, what="size", arms=arms, samples=same, unit="kB", scale=1e-3),
    )


def by_default(pixels: Pixels) -> int:
    """Returns the size of the file that Pillow makes without being asked for anything."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data).save(buffer, "PNG")
    return len(buffer.getvalue())
