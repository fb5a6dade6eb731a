"""A step preview: what it costs the device thread, against the step that it previews."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Final

from bench.disturbance import Meter
from bench.loads import Paired
from bench.ratios import orders
from bench.rows import Row, row
from imagegen_server import models
from imagegen_server.core import GenerationRequest, Job, Stage

_STEPS: Final = 40
"""Steps of a job. Half of them have a preview: with, without, without, with, so that a drift of the machine cancels."""


def measure(pairs: int) -> Row:
    """Returns the row of a step with a preview against a step without: guided, alone in its batch, 16x16 latents.

    Encoding to WebP is not in it: that happens on an encoder thread.
    """
    from support.pairs import request

    runner = models.load_runner("shapes", models.ModelOptions(device="cpu"))
    asked = dataclasses.replace(request(), num_inference_steps=_STEPS, width=128, height=128)
    _seconds(runner, asked)  # warm-up
    watch, both = Meter(()), [_seconds(runner, asked) for _ in range(pairs)]
    runner.close()
    return row(
        "a step with a preview, 16x16 latents",
        what="time",
        arms="with/without",
        samples=Paired(first=[one for one, _ in both], second=[other for _, other in both], others=watch.others()),
        unit="ms",
        scale=2e3 / _STEPS,
        goal="≤ 1.02",
    )


def _seconds(runner: Any, asked: GenerationRequest) -> tuple[float, float]:
    """Returns the seconds of the base steps of a new job with a preview, and of those without."""
    job, seconds = Job(asked, 0), {True: 0.0, False: 0.0}
    runner.step(Stage.TEXT_ENCODE, [job])
    for first in orders(_STEPS // 2):
        for preview in (first, not first):
            job.preview_due = preview
            began = time.perf_counter()
            (result,) = runner.step(Stage.BASE, [job])
            seconds[preview] += time.perf_counter() - began
            if (result.preview is not None) is not preview:
                raise RuntimeError("the runner did not do what it was told")
    runner.release(job)
    return seconds[True], seconds[False]
