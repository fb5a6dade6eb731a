"""Drives a runner through stages on the device, with the clock running."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpu.site import Site, asked, synchronize
from imagegen_server.core import GenerationRequest, Job, Pixels, Stage

if TYPE_CHECKING:
    from imagegen_server.models.sdxl_runner import SDXLRunner


@dataclass(slots=True)
class Finished:
    """One whole generation."""

    pixels: Pixels
    seconds: dict[Stage, float]
    """Of each device stage."""


def generate(site: Site, runner: SDXLRunner, request: GenerationRequest) -> Finished:
    """Runs one image through its plan, alone. Raises what a stage failed with."""
    job, seconds, pixels = Job(request, 0), dict[Stage, float](), None
    try:
        for planned in runner.plan(request).stages:
            with _clocked(site, seconds, planned.stage):
                for _ in range(planned.evaluations):
                    (result,) = runner.step(planned.stage, [job])
                    if result.failure is not None:
                        raise result.failure
                    pixels = result.pixels
    finally:
        runner.release(job)
    if pixels is None:
        raise RuntimeError("the plan does not end with pixels")
    return Finished(pixels=pixels, seconds=seconds)


@contextmanager
def crowd(
    site: Site,
    runner: SDXLRunner,
    *,
    rows: int,
    side: int,
    stage: Stage,
) -> Iterator[list[Job]]:
    """Gives guided jobs that fill `rows` rows and are about to run `stage`, with steps enough to time."""
    steps = site.timed_steps + 5
    request = asked(site, width=side, height=side, num_inference_steps=steps if stage is Stage.BASE else 1)
    request = replace(request, refiner=replace(request.refiner, num_inference_steps=steps))
    jobs = [Job(replace(request, seed=number), 0) for number in range(rows // 2)]
    try:
        for job in jobs:
            _expect(runner.step(Stage.TEXT_ENCODE, [job]))
            if stage is Stage.REFINER:
                _expect(runner.step(Stage.BASE, [job]))
        yield jobs
    finally:
        for job in jobs:
            runner.release(job)


@dataclass(slots=True)
class Offline:
    """Several images in one batch, base only."""

    seconds: float
    """From the prompts to the pixels of the last."""
    denoised: float
    """Of them, until the last step."""


def offline(site: Site, runner: SDXLRunner, *, images: int, steps: int, call: str) -> Offline:
    """Runs images of the native size, each of its own prompt, through their steps together and decodes each.

    Of calls with different names no prompt is remembered.
    """
    request = replace(asked(site, num_inference_steps=steps), use_refinement=False, refiner=None)
    numbered = enumerate(prompts(images, call))
    jobs = [Job(replace(request, seed=seed, prompt=prompt, prompt_2=prompt), 0) for seed, prompt in numbered]
    try:
        synchronize(site)
        began = time.perf_counter()
        for job in jobs:
            _expect(runner.step(Stage.TEXT_ENCODE, [job]))
        for _ in range(steps):
            _expect(runner.step(Stage.BASE, jobs))
        synchronize(site)
        denoised = time.perf_counter() - began
        for job in jobs:
            _expect(runner.step(Stage.VAE_DECODE, [job]))
        return Offline(seconds=time.perf_counter() - began, denoised=denoised)
    finally:
        for job in jobs:
            runner.release(job)


def prompts(count: int, call: str) -> list[str]:
    """Returns different prompts, which no call of another name has."""
    return [f"a red circle on a blue background, {call} {number}" for number in range(count)]


def decode_seconds(site: Site, runner: SDXLRunner) -> float:
    """Returns the median seconds from a latent of the native size to pixels on the host."""
    request = replace(asked(site, num_inference_steps=1), use_refinement=False, refiner=None)
    job = Job(request, 0)
    try:
        for stage in (Stage.TEXT_ENCODE, Stage.BASE):
            _expect(runner.step(stage, [job]))
        return median_seconds(site, lambda: _expect(runner.step(Stage.VAE_DECODE, [job])))
    finally:
        runner.release(job)


def median_seconds(site: Site, work: Callable[[], object]) -> float:
    """Returns the median seconds of some work on the device, after two runs that are not counted."""
    for _ in range(2):
        work()
    return statistics.median(seconds_of(site, work) for _ in range(site.timed_steps))


def seconds_of(site: Site, work: Callable[[], object]) -> float:
    """Returns the seconds until the device has done some work."""
    synchronize(site)
    began = time.perf_counter()
    work()
    synchronize(site)
    return time.perf_counter() - began


def seconds_of_a_step(site: Site, runner: SDXLRunner, stage: Stage, jobs: Sequence[Job]) -> float:
    """Returns the mean seconds of one evaluation for all jobs, after three that are not counted.

    The first runs kernel by kernel, the second is captured, the third replayed.
    """
    return mean_seconds(site, lambda: _expect(runner.step(stage, jobs)), before=3)


def mean_seconds(site: Site, work: Callable[[], object], *, before: int) -> float:
    """Returns the mean seconds of some work on the device, done again and again without waiting for it in between.

    It is done `before` times that are not counted.
    """
    for _ in range(before):
        work()

    def again_and_again() -> None:
        for _ in range(site.timed_steps):
            work()

    return seconds_of(site, again_and_again) / site.timed_steps


@dataclass(slots=True)
class Previewed:
    """Base steps of one image, every other of them with a preview."""

    seconds: dict[bool, float]
    """Median, of steps with a preview (True) and without, until the device had done them."""
    drawn: list[Pixels]


def steps_with_previews(site: Site, runner: SDXLRunner, *, at_once: bool) -> Previewed:
    """Runs the base's steps, every other with a preview, which is drawn before the next step or, else, at the end.

    The first three steps, in which graphs are captured, are not counted.
    """
    request = replace(asked(site, num_inference_steps=2 * site.timed_steps + 5), use_refinement=False, refiner=None)
    job, previews, drawn = Job(request, 0), [], []
    seconds: dict[bool, list[float]] = {True: [], False: []}
    try:
        _expect(runner.step(Stage.TEXT_ENCODE, [job]))
        for number in range(request.num_inference_steps):
            job.preview_due = number % 2 == 0
            synchronize(site)
            began = time.perf_counter()
            (result,) = runner.step(Stage.BASE, [job])
            synchronize(site)
            if number >= 3:
                seconds[job.preview_due].append(time.perf_counter() - began)
            _expect([result])
            if result.preview is not None and at_once:
                drawn.append(result.preview())
            elif result.preview is not None:
                previews.append(result.preview)
    finally:
        runner.release(job)
    drawn += [draw() for draw in previews]
    return Previewed(seconds={due: statistics.median(each) for due, each in seconds.items()}, drawn=drawn)


def array(pixels: Pixels) -> Any:
    """Returns the pixels as an array of (height, width, 3)."""
    import numpy as np

    return np.frombuffer(pixels.data, np.uint8).reshape(pixels.height, pixels.width, 3)


def psnr(left: Pixels, right: Pixels) -> float:
    """Returns the peak signal-to-noise ratio of two images in dB, infinite for equal ones."""
    import numpy as np

    error = float(np.mean((array(left).astype(float) - array(right).astype(float)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def worst(left: Pixels, right: Pixels) -> int:
    """Returns the largest difference of two images in levels, 0 to 255."""
    import numpy as np

    return int(np.abs(array(left).astype(int) - array(right).astype(int)).max())


@contextmanager
def _clocked(site: Site, seconds: dict[Stage, float], stage: Stage) -> Iterator[None]:
    synchronize(site)
    began = time.perf_counter()
    yield
    synchronize(site)
    seconds[stage] = time.perf_counter() - began


def _expect(results: Sequence[Any]) -> None:
    for result in results:
        if result.failure is not None:
            raise result.failure
