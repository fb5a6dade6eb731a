"""Where pixels become files: everything between the device and the sending."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Final, Protocol

from imagegen_server.core import EncodedImage, GenerationRequest, KeepFailure, Outcome, Pixels, Stage
from imagegen_server.engine.books import Books
from imagegen_server.engine.endings import Endings
from imagegen_server.engine.events import ImageKept, ImageReady, PreviewReady, StageCompleted, StageStarted
from imagegen_server.engine.generation import Generation, Track
from imagegen_server.engine.report import facts

_log = logging.getLogger(__name__)


class Encode(Protocol):
    """Turns pixels into the file that the request asks for."""

    def __call__(self, pixels: Pixels, request: GenerationRequest, image_index: int, *, refined: bool) -> EncodedImage:
        """Encodes one image; `refined` says whether the refiner's result is shown. Called from encoder threads."""
        ...


class EncodePreview(Protocol):
    """Turns a preview's pixels into a small file."""

    def __call__(self, pixels: Pixels) -> EncodedImage:
        """Encodes one preview. Called from encoder threads."""
        ...


class Keep(Protocol):
    """Puts a file where its caller can fetch it later."""

    def __call__(
        self,
        image: EncodedImage,
        request: GenerationRequest,
        image_index: int,
        *,
        refined: bool,
        patience: float,
        done: Callable[[str, KeepFailure | None], None],
    ) -> None:
        """Begins to keep one image and returns at once. Called from encoder threads; never raises.

        Args:
            image: the file.
            request: what was asked for.
            image_index: from 0.
            refined: whether the refiner's result is shown.
            patience: seconds after which `done` is called with TIMEOUT if the image is not kept by then.
            done: called exactly once, from any thread, with the file's URL (empty if there is none) and why the file
                was not kept (None if it was).
        """
        ...


KEEP_PATIENCE: Final = 0.5
"""The part of the time left until a caller's deadline that may be spent on waiting until its images are kept."""


class Encoding:
    """Makes files of pixels on encoder threads, and has them kept. Takes the engine's lock, which is reentrant."""

    def __init__(
        self,
        books: Books,
        endings: Endings,
        *,
        encode: Encode,
        encode_preview: EncodePreview,
        keep: Keep | None,
        encoders: Executor,
    ) -> None:
        self._work = books.work
        self._observer = books.observer
        self._clock = books.clock
        self._endings = endings
        self._encode_image = encode
        self._encode_preview_image = encode_preview
        self._keep = keep
        self._encoders = encoders

    def encode(self, track: Track, pixels: Pixels) -> None:
        """Begins to turn a decoded image into a file, on another thread."""
        self._encoders.submit(self._encode, track, pixels)

    def preview(self, track: Track, draw: Callable[[], Pixels]) -> None:
        """Begins to draw a preview of the steps executed so far and to turn it into a file, on another thread."""
        stage, steps = track.planned.stage, track.steps_done
        before = track.previews[-1:]
        track.previews.append(self._encoders.submit(self._encode_preview, track, draw, stage, steps, before))

    def _encode_preview(
        self, track: Track, draw: Callable[[], Pixels], stage: Stage, steps: int, before: Sequence[Future[None]]
    ) -> None:
        """Runs on an encoder thread. The generation goes on without a preview that cannot be made."""
        generation = track.generation
        if generation.ended:
            return
        try:
            pixels = draw()
            image = self._encode_preview_image(pixels)
        except Exception as error:  # noqa: BLE001 - what was computed for the image is worth more
            _log.warning("a preview was left out: %s", type(error).__name__)
            return
        wait(before)  # submitted before, so it is done or running: an older preview follows no newer one
        with self._work:
            if generation.ended or generation.stop is not None:
                return
            generation.buffer.publish(
                PreviewReady(
                    stage=stage,
                    image_index=track.job.index,
                    completed_steps=steps,
                    image=image,
                    width=pixels.width,
                    height=pixels.height,
                )
            )

    def _encode(self, track: Track, pixels: Pixels) -> None:
        """Runs on an encoder thread."""
        generation, index = track.generation, track.job.index
        wait(track.previews)  # submitted before, so each is done or running: no preview follows its image
        with self._work:
            if generation.ended:
                return
            started = self._clock()
            generation.enter(Stage.IMAGE_ENCODE, started)
            generation.buffer.publish(StageStarted(stage=Stage.IMAGE_ENCODE, image_index=index, total_steps=0))
        self._observer.stage_started(generation.request, Stage.IMAGE_ENCODE, index)
        try:
            image = self._encode_image(pixels, generation.request, index, refined=_refined(track))
        except Exception as error:  # noqa: BLE001 - a failing encoder fails its generation, never the server
            elapsed = self._clock() - started
            self._observer.stage_ended(generation.request, Stage.IMAGE_ENCODE, index, Outcome.ERROR, elapsed)
            self._endings.stop(generation, error, stage=Stage.IMAGE_ENCODE)
            return
        elapsed = self._clock() - started
        self._observer.stage_ended(generation.request, Stage.IMAGE_ENCODE, index, Outcome.OK, elapsed)
        self._observer.image_encoded(generation.request, image.mime_type, len(image.data))
        self._hand_over(track, image, started)

    def _hand_over(self, track: Track, image: EncodedImage, started: float) -> None:
        """Publishes a file, and sees to it that it is kept."""
        generation, request = track.generation, track.generation.request
        with self._work:
            if generation.ended or generation.stop is not None:
                return
            now = self._clock()
            generation.leave(Stage.IMAGE_ENCODE, now)
            generation.buffer.publish(
                StageCompleted(stage=Stage.IMAGE_ENCODE, image_index=track.job.index, duration=now - started, steps=0)
            )
            ready = ImageReady(
                image_index=track.job.index,
                image=image,
                seed=track.job.seed,
                width=request.width,
                height=request.height,
                refined=_refined(track),
            )
            generation.images[track.job.index] = facts(ready)
            generation.buffer.publish(ready)
            if self._keep is None:
                self._image_done(generation)
        if self._keep is not None:
            self._keep(
                image,
                request,
                track.job.index,
                refined=_refined(track),
                patience=float("inf") if generation.deadline is None else KEEP_PATIENCE * (generation.deadline - now),
                done=lambda url, failure: self._kept(track, url, failure),
            )

    def _kept(self, track: Track, url: str, failure: KeepFailure | None) -> None:
        """Publishes where an image is kept, or that it is not."""
        generation = track.generation
        with self._work:
            if generation.ended or generation.stop is not None:
                return
            index = track.job.index
            generation.images[index] = dataclasses.replace(generation.images[index], url=url)
            generation.buffer.publish(ImageKept(image_index=index, url=url, failure=failure))
            self._image_done(generation)

    def _image_done(self, generation: Generation) -> None:
        """Counts an image, and ends the engine's work on its generation if it is the last."""
        generation.images_done += 1
        if generation.images_done == len(generation.tracks):
            self._endings.finish(generation, None)


def _refined(track: Track) -> bool:
    """Returns whether the refiner's result is shown."""
    return track.job.decode_from is Stage.REFINER
