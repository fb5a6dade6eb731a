"""A step preview: what it costs the device thread, against the step that it previews."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Final

from bench.disturbance import Meter
from bench.loads import in_turns
from bench.rows import Row, row
from imagegen_server import models
from imagegen_server.core import Job, Stage

_STEPS: Final = 20
"""Steps in a sample, with or without a preview after each."""


async def measure(pairs: int) -> Row:
    """Returns the row of a step with a preview against a step without: guided, alone in its batch, 16x16 latents.

    Encoding to WebP is not in it: that happens on an encoder thread.
    """
    from support.pairs import request

    runner = models.load_runner("shapes", models.ModelOptions(device="cpu"))
    asked = dataclasses.replace(request(), num_inference_steps=_STEPS, width=128, height=128)

    async def with_previews() -> float:
        return sum(_step_seconds(runner, asked, preview=True))

    async def without() -> float:
        return sum(_step_seconds(runner, asked, preview=False))

    samples = await in_turns(with_previews, without, pairs, lambda: Meter(()))
    return row(
        "a step with a preview, 16x16 latents",
        what="time",
        arms="with/without",
        samples=samples,
        unit="ms",
        scale=1e3 / _STEPS,
        goal="≤ 1.02",
    )


def _step_seconds(runner: Any, asked: Any, *, preview: bool) -> Iterator[float]:
    """Yields the seconds of each base step of a new job."""
    job = Job(asked, 0)
    runner.step(Stage.TEXT_ENCODE, [job])
    for _ in range(_STEPS):
        job.preview_due = preview
        began = time.perf_counter()
        (result,) = runner.step(Stage.BASE, [job])
        yield time.perf_counter() - began
        if (result.preview is not None) is not preview:
            raise RuntimeError("the runner did not do what it was told")
    runner.release(job)
