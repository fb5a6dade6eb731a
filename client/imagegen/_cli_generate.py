"""The commands `generate` and `watch`: one generation, its progress and its files."""

from __future__ import annotations

import argparse
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import TextIO, cast

from imagegen import _cli_preview, types
from imagegen._cli_display import Display, make_display
from imagegen._cli_output import STDOUT, checked, destination, named, require_room, write
from imagegen._cli_parser import FORMATS, SUFFIXES, UsageError, generation_options
from imagegen._cli_progress import StageTracker
from imagegen._client import Client
from imagegen.errors import NotFoundError


class Following(ABC):
    """One run of a command that follows a generation to its end.

    What was received and written so far is known after a failure as well.
    """

    def __init__(
        self,
        request_id: str,
        output: Path,
        *,
        num_images: int,
        lasting: bool,
        silent: bool,
        protocol: _cli_preview.Protocol | None = None,
    ) -> None:
        """Prepares to write to `output`, to files of numbered names if there are several images."""
        self.request_id = request_id
        self.lasting = lasting
        """Whether the generation goes on without this command."""
        self.accepted = False
        """Whether the server has taken the generation, or knows of it."""
        self.files: list[Path] = []
        """Files that were written, in the order of arrival."""
        self._output = output
        self._num_images = num_images
        self._silent = silent
        """Whether no progress is shown."""
        self._protocol = protocol
        """How previews are shown; None if they are not, or not any more."""
        self._tracker: StageTracker | None = None

    @abstractmethod
    def run(self, client: Client, stream: TextIO) -> types.Completed:
        """Shows progress on `stream` and writes each image when it has arrived."""

    @property
    def piped(self) -> bool:
        """Whether the standard output takes the image, so that nothing else may go there."""
        return self._output == STDOUT

    def path(self, image_index: int) -> Path:
        """Returns where an image goes: the output, with a number if there are several."""
        if self._num_images == 1:
            return self._output
        return self._output.with_name(f"{self._output.stem}-{image_index}{self._output.suffix}")

    def _follow(self, events: Generator[types.Event, None, None], stream: TextIO) -> types.Completed:
        with closing(events), make_display(stream, silent=self._silent) as display:
            for event in events:
                self._handle(event, display)
                if isinstance(event, types.Completed):
                    self.files.sort(key=self._order(event).index)
                    return event
        raise RuntimeError("the client ended a generation without its outcome")

    def _order(self, completed: types.Completed) -> list[Path]:
        return [self.path(image.image_index) for image in completed.images]

    def _handle(self, event: types.Event, display: Display) -> None:
        if isinstance(event, types.Accepted):
            self.accepted = True
            self._tracker = StageTracker(event.plan)
            display.begin(self._tracker.initial())
            if event.queue_position:
                display.note(f"waiting behind {event.queue_position}, about {event.estimated_queue_wait:.0f} s")
        elif isinstance(event, types.Preview):
            self._show(event, display)
        elif isinstance(event, types.ImageReceived):
            self.files.append(write(event.image, self.path(event.image.image_index)))
        elif self._tracker is not None:
            status = self._tracker.update(event)
            if status is not None:
                display.update(status)

    def _show(self, preview: types.Preview, display: Display) -> None:
        """Shows a preview if that was asked for; after one that cannot be decoded here, says so and shows no more."""
        if self._protocol is None:
            return
        try:
            picture = _cli_preview.render(preview.data, self._protocol)
        except ValueError as error:
            self._protocol = None
            display.note(f"{error}; no more previews are shown")
            return
        display.note(f"{preview.stage} after {preview.completed_steps} steps")
        display.picture(picture)


class Generate(Following):
    """One run of the command `generate`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Checks where the images go before anything is sent; raises `UsageError`."""
        request_id = arguments.request_id or str(uuid.uuid4())
        output, self._mime_type = destination(arguments, request_id)
        super().__init__(
            request_id,
            output,
            num_images=arguments.num_images,
            lasting=arguments.keep_running,
            silent=arguments.json,
            protocol=_preview_protocol(arguments),
        )
        self._arguments = arguments

    def run(self, client: Client, stream: TextIO) -> types.Completed:
        """Generates, shows progress on `stream` and writes each image when it has arrived."""
        options = generation_options(self._arguments, self._mime_type)
        options["request_id"] = self.request_id
        return self._follow(client.generate(self._arguments.prompt, **options), stream)


class Watch(Following):
    """One run of the command `watch`: another's generation, whose previews are not shown."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Checks the file that was named, if one was, before anything is sent; raises `UsageError`."""
        self._named: str | None = arguments.output
        output = checked(self._named, as_json=arguments.json) if self._named else named(arguments.request_id, "png")
        super().__init__(arguments.request_id, output, num_images=1, lasting=True, silent=arguments.json)

    def run(self, client: Client, stream: TextIO) -> types.Completed:
        """Shows progress on `stream` and writes each image when it has arrived.

        Raises `UsageError` if the images do not suit the file that was named.
        """
        with suppress(NotFoundError):  # forgotten; its events may be kept
            self._prepare(client.get(self.request_id).plan)
        return self._follow(client.watch(self.request_id), stream)

    def _handle(self, event: types.Event, display: Display) -> None:
        if isinstance(event, types.Accepted) and not self.accepted:
            self._prepare(event.plan)
        super()._handle(event, display)

    def _prepare(self, plan: types.GenerationPlan) -> None:
        """Chooses the files, once it is known what goes there; raises `UsageError` if it does not suit them."""
        self.accepted = True
        self._num_images = plan.num_images
        suffix = next((name for name, mime_type in FORMATS.items() if mime_type == plan.mime_type), "image")
        if self._named is None:
            self._output = Path(f"{self.request_id}.{suffix}")
        require_room(self._output, plan.num_images)
        if SUFFIXES.get(self._output.suffix.lower()) not in {None, plan.mime_type}:
            raise UsageError(f"{self._output} has the wrong ending: the images are {plan.mime_type}")


def _preview_protocol(arguments: argparse.Namespace) -> _cli_preview.Protocol | None:
    """Returns how previews are shown, if they are; raises `UsageError` if they cannot be."""
    chosen: str | None = arguments.preview
    if chosen is None:
        if arguments.previews is not None:
            raise UsageError("--previews says how many to show; say --preview too")
        return None
    if not _cli_preview.available():
        raise UsageError("--preview needs Pillow: pip install '.[cli]' in a checkout of ImageGen")
    if chosen == "auto":
        return _cli_preview.detect(os.environ)
    return cast("_cli_preview.Protocol", chosen)
