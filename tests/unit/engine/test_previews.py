"""Previews as the engine schedules, orders and coalesces them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagegen_server.core import EncodedImage, EngineObserver, GenerationRequest, Pixels, Stage
from imagegen_server.engine import EngineSettings, ImageReady
from imagegen_server.engine.books import Books
from imagegen_server.engine.buffer import EventBuffer
from imagegen_server.engine.encoding import Encoding
from imagegen_server.engine.endings import Endings
from imagegen_server.engine.events import PreviewReady
from imagegen_server.engine.generation import Generation
from imagegen_server.engine.previews import preview_evaluations
from imagegen_server.models.fake.runner import FakeRunner, preview
from support.executors import Later
from support.simulation import PROFILE, World, encode, encode_preview, make_request


@pytest.mark.parametrize("count", [0, 1, 2, 5, 14])
def test_previews_are_spread_over_both_stages(count: int) -> None:
    """As many as asked for, evenly, and none right before the image."""
    plan = FakeRunner(PROFILE).plan(make_request("r"))
    total = sum(planned.steps for planned in plan.stages)
    taken = preview_evaluations(plan, count)
    assert len(taken) == count
    ends = {Stage.BASE: 0, Stage.REFINER: plan.stage(Stage.BASE).evaluations}
    at = sorted(ends[stage] + evaluation for stage, evaluation in taken)
    gaps = {after - before for before, after in zip([0, *at], [*at, total], strict=True)}
    assert max(gaps) - min(gaps) <= 1
    assert count == 0 or at[-1] < total


def test_more_previews_than_steps_are_one_for_each_step_but_the_last() -> None:
    """Nothing is previewed twice, and the image itself follows that one."""
    plan = FakeRunner(PROFILE).plan(make_request("r"))
    assert len(preview_evaluations(plan, 16)) == 14


@pytest.mark.parametrize("count", [1, 3, 7, 16])
def test_second_order_steps_are_previewed_once_they_are_over(count: int) -> None:
    """Of two evaluations; as many as asked for, or one for each step but the last."""
    world = World()
    world.submit(
        make_request(
            "r", scheduler="HeunDiscreteScheduler", num_inference_steps=8, use_refinement=False, preview_count=count
        )
    )
    world.run()
    events = [numbered.event for numbered in world.seen["r"]]
    steps = [event.completed_steps for event in events if isinstance(event, PreviewReady)]
    assert len(steps) == min(count, 7)
    assert steps == sorted(set(steps))
    assert 1 <= steps[0] <= steps[-1] < 8


@pytest.mark.parametrize("images", [1, 3])
def test_each_image_has_its_previews_before_it(images: int) -> None:
    """With the stage and the steps at which they were taken."""
    world = World()
    world.submit(make_request("r", preview_count=4, num_images=images))
    world.run()
    world.check_balance()
    events = [numbered.event for numbered in world.seen["r"]]
    for index in range(images):
        previews = [event for event in events if isinstance(event, PreviewReady) and event.image_index == index]
        ready = next(event for event in events if isinstance(event, ImageReady) and event.image_index == index)
        assert [(event.stage, event.completed_steps) for event in previews] == [
            (Stage.BASE, 3),
            (Stage.BASE, 6),
            (Stage.BASE, 9),
            (Stage.REFINER, 2),
        ]
        assert all(events.index(event) < events.index(ready) for event in previews)


def test_a_preview_that_cannot_be_made_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The image is worth more; the log tells, without a word of the request."""
    drawn: list[Stage] = []

    def draw(request: GenerationRequest, seed: int, stage: Stage) -> Pixels:
        drawn.append(stage)
        if len(drawn) == 2:
            raise RuntimeError(request.prompt)
        return preview(request, seed, stage)

    monkeypatch.setattr("imagegen_server.models.fake.runner.preview", draw)
    world = World()
    world.submit(make_request("r", preview_count=4))
    world.run()
    world.check_balance()
    events = [numbered.event for numbered in world.seen["r"]]
    assert [event.completed_steps for event in events if isinstance(event, PreviewReady)] == [3, 9, 2]
    assert any(isinstance(event, ImageReady) for event in events)
    assert "a preview was left out: RuntimeError" in caplog.text
    assert "a circle" not in caplog.text


def test_no_preview_follows_its_image() -> None:
    """The file of an image is made once its previews are, though another thread has time for it before."""
    later = Later()
    world = World(encoders=later)
    world.submit(make_request("r", preview_count=1))
    while world.engine.turn():
        pass
    preview, image = later.waiting
    thread = threading.Thread(target=image, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive(), "it waits"
    preview()
    thread.join(30)
    world.run()
    world.check_balance()
    seen = [numbered.event for numbered in world.seen["r"] if isinstance(numbered.event, PreviewReady | ImageReady)]
    assert [type(event) for event in seen] == [PreviewReady, ImageReady]


def test_a_preview_that_is_ready_after_the_cancel_is_not_told() -> None:
    """Its caller has been told that nothing more comes."""
    later = Later()
    world = World(encoders=later)
    world.submit(make_request("r", preview_count=1))
    while not later.waiting:
        world.engine.turn()
    world.engine.cancel("r")
    later.run()
    world.run()
    world.check_balance()
    assert not any(isinstance(numbered.event, PreviewReady) for numbered in world.seen["r"])


def test_without_asking_there_are_none() -> None:
    """Nothing is computed either: the runner is not told that one is due."""
    world = World()
    world.submit(make_request("r"))
    world.run()
    assert not [numbered for numbered in world.seen["r"] if isinstance(numbered.event, PreviewReady)]


def test_a_refiner_that_fails_takes_its_previews_along() -> None:
    """The base's were sent; the generation ends as without previews."""
    world = World()
    world.submit(make_request("r", prompt="a circle {refiner:nan@1}", preview_count=4))
    world.run()
    world.check_balance()
    stages = [numbered.event.stage for numbered in world.seen["r"] if isinstance(numbered.event, PreviewReady)]
    assert stages == [Stage.BASE] * 3


def test_a_slow_reader_gets_the_newest_preview_of_each_image() -> None:
    """Previews are large and a newer one is better: an unread one is replaced."""
    buffer = EventBuffer(lambda: None)

    def preview(index: int, steps: int) -> PreviewReady:
        image = EncodedImage(mime_type="image/webp", data=b"x", sha256="0" * 64)
        return PreviewReady(stage=Stage.BASE, image_index=index, completed_steps=steps, image=image, width=8, height=8)

    for event in (preview(0, 1), preview(1, 1), preview(0, 2)):
        buffer.publish(event)
    taken = [numbered.event for numbered in buffer.take()]
    assert taken == [preview(1, 1), preview(0, 2)]


def test_an_older_preview_never_replaces_a_newer_one() -> None:
    """Each is made on a thread of its own; whichever is ready first, they are told in the order of their steps."""
    older, newer = (Pixels(width=1, height=1, data=bytes([value] * 3)) for value in range(2))
    newer_is_made = threading.Event()

    def draw_older() -> Pixels:
        assert newer_is_made.wait(60)
        return older

    def encode_newer_first(pixels: Pixels) -> EncodedImage:
        if pixels is newer:
            newer_is_made.set()
        return encode_preview(pixels)

    books = Books(EngineObserver(), EngineSettings(), time.monotonic)
    buffer, request = EventBuffer(lambda: None), make_request("r", preview_count=2)
    generation = Generation(
        request,
        FakeRunner(PROFILE).plan(request),
        number=0,
        first_key=0,
        fingerprint=b"",
        deadline=None,
        now=0.0,
        buffer=buffer,
    )
    with ThreadPoolExecutor(2) as encoders:
        encoding = Encoding(
            books, Endings(books), encode=encode, encode_preview=encode_newer_first, keep=None, encoders=encoders
        )
        (track,) = generation.tracks
        track.skip_to(Stage.BASE)
        for done, draw in ((1, draw_older), (2, lambda: newer)):
            track.done = done
            encoding.preview(track, draw)
    events = [numbered.event for numbered in buffer.take()]
    assert [event.completed_steps for event in events if isinstance(event, PreviewReady)] == [2]
