"""A server from outside: from pixels to the last chunk at the caller, from its start to serving, and its memory."""

from __future__ import annotations

import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from statistics import median
from typing import Any, Final

import imagegen
from bench.disturbance import Meter
from bench.encoding import SIDE, by_default, picture
from bench.loads import in_turns
from bench.peers.callers import ImageGenCaller
from bench.peers.systems import System, running
from bench.rows import Row, row
from support.live_server import live_server

STARTS: Final = 3
_STEPS: Final = 20

_PICTURES: Final = System(
    name="picture",
    title="the fake model with a picture",
    script="serve_picture.py",
    arguments=("--model=fake", "--metrics-port=0", "--log-level=warning", "--port"),
    caller=ImageGenCaller,
)


async def delivery(pairs: int) -> Row:
    """Returns the row of a 1024x1024 PNG: from the end of the decoding to the last chunk at a caller.

    It is compared with the time that Pillow's default takes to make the file alone.
    """
    pixels = picture()
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as directory:
        async with running(_PICTURES, Path(directory)) as live:

            async def ours() -> float:
                return await _delivered(live.caller.client)

            async def default() -> float:
                began = time.perf_counter()
                by_default(pixels)
                return time.perf_counter() - began

            samples = await in_turns(ours, default, pairs, lambda: Meter(live.pids()))
    return row(
        f"PNG of {SIDE}x{SIDE}, from pixels to the last chunk",
        what="time",
        arms="ours/Pillow's file alone",
        samples=samples,
        unit="ms",
        scale=1e3,
        goal="≤ 45 ms",
    )


async def _delivered(client: imagegen.AsyncClient) -> float:
    events = client.generate("a picture", width=SIDE, height=SIDE, num_inference_steps=_STEPS, use_refinement=False)
    decoded = received = 0.0
    async with aclosing(events) as stream:
        async for event in stream:
            if isinstance(event, imagegen.StageCompleted) and event.stage is imagegen.Stage.VAE_DECODE:
                decoded = time.perf_counter()
            elif isinstance(event, imagegen.ImageReceived):
                received = time.perf_counter()
    return received - decoded


def start_and_memory(starts: int = STARTS) -> dict[str, Any]:
    """Returns seconds from a server's start to serving, and its resident bytes when it is idle, as medians."""
    seconds, resident = [], []
    for _ in range(starts):
        with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as directory:
            began = time.monotonic()
            with live_server(Path(directory), "--log-level", "warning", model="shapes") as server:
                seconds.append(time.monotonic() - began)  # the port file appears when it serves
                resident.append(server.rss())
    return {"start_seconds": median(seconds), "idle_rss_bytes": median(resident), "starts": starts}
