"""Turns one generation into the messages of its stream: events, then image bytes, then the outcome.

Nothing is buffered here beyond what one `take` returned: the next message is written when the writer has accepted the
one before, so a slow reader holds the images it has not read and one chunk, and progress is coalesced by the engine
meanwhile. What was written is in the generation's journal besides, within its bound.

Sequence numbers: an event keeps the engine's number, shifted by the extra messages that images before it became
(an image is one event, and a header and several chunks on the wire; that it was kept is none). They increase without
repetition, and none is skipped but where the engine skips one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import messages
from imagegen_server.api.handlers import AnyContext
from imagegen_server.api.observers import EdgeObserver
from imagegen_server.core import GenerationRequest, Stage
from imagegen_server.engine import Ticket, events, facts

PART: Final = 4 * 2**20
"""Bytes of a message that have `send_timeout` to themselves: all of one that gRPC's clients take by default."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StreamSettings:
    """How streams are written."""

    chunk_bytes: int = 256 * 1024
    """Bytes of an image chunk. 256 KiB was the fastest of the sizes measured; at most 4 MB for stock clients."""
    send_timeout: float = 60.0
    """Seconds in which the transport must accept one message, of a larger one each `PART`; the call ends otherwise."""
    stall: float = 0.01
    """Seconds from which a write counts as stalled by the reader."""

    def __post_init__(self) -> None:
        """Raises `errors.StartupError` for values that cannot work."""
        if not 1 <= self.chunk_bytes <= 4_000_000:
            raise errors.StartupError(f"chunk size must be 1 to 4000000 bytes, got {self.chunk_bytes}")
        if not self.send_timeout > 0:
            raise errors.StartupError(f"send timeout must be above 0 s, got {self.send_timeout:g}")


class Writer(Protocol):
    """The part of a servicer context that a stream needs."""

    async def write(self, message: pb.GenerateImageResponse) -> None:
        """Hands a message to the transport; returns when it has room for another."""
        ...


Announce = Callable[[], Awaitable[None]]
"""Sends the headers of a call."""


class Wake:
    """Wakes a coroutine from other threads. Never raises, even when the loop has been closed meanwhile."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """Wakes the waiter; callable from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Returns once woken since the last call."""
        await self._event.wait()
        self._event.clear()


class Patient:
    """Writes to a reader that may be slow, but not for ever."""

    def __init__(self, writer: Writer | AnyContext, settings: StreamSettings, observer: EdgeObserver) -> None:
        self._writer = writer
        self._settings = settings
        self._observer = observer

    async def write(self, message: Any, size: int = PART) -> None:
        """Writes a message of at most `size` bytes.

        Raises `errors.DeadlineExceeded` if the reader does not take it in `send_timeout` seconds for each `PART`.
        """
        began, patience = time.monotonic(), self._settings.send_timeout * max(1.0, size / PART)
        try:
            async with asyncio.timeout(patience):
                await self._writer.write(message)
        except TimeoutError:
            text = f"the caller did not read a message in {patience:g} s"
            raise errors.DeadlineExceeded(text, stage=Stage.SEND) from None
        finally:
            elapsed = time.monotonic() - began
            if elapsed >= self._settings.stall:
                self._observer.write_stalled(elapsed)


class GenerationStream:
    """Writes one generation. Used once."""

    def __init__(
        self, writer: Writer, request: GenerationRequest, chunk_bytes: int, answer: Writer | None = None
    ) -> None:
        """Prepares to write to `writer`, image bytes in chunks of at most `chunk_bytes`.

        An `answer` sends everything at once when `completed` is written to it, which it is before `writer` is told:
        until then nothing is on its way to the caller.
        """
        self._writer = writer
        self._answer = answer
        self._request = request
        self._chunk_bytes = chunk_bytes
        self._extra = 0
        self._images: dict[int, pb.ImageSummary] = {}

    async def run(self, ticket: Ticket, wake: Wake) -> None:
        """Writes everything up to `completed`.

        Raises the error that the generation ended with, and what the writer raises.
        """
        while True:
            pending = deque(ticket.take())
            while pending:
                # popleft, so that an image is freed once it is sent though later ones wait in the same batch
                if await self._write_event(pending.popleft(), ticket):
                    return
            await wake.wait()

    async def write_plan(self, accepted: events.Accepted) -> None:
        """Writes the only message of a request that asked for the plan."""
        await self._write(messages.response(accepted, self._request), 1, time.time())

    async def _write_event(self, numbered: events.Numbered, ticket: Ticket) -> bool:
        """Writes one event and returns whether it was the last."""
        event = numbered.event
        match event:
            case events.ImageReady():
                with nullcontext() if self._answer else ticket.sending(event.image_index):
                    await self._write_image(event, numbered, ticket)
            case events.ImageKept(failure=None):
                self._images[event.image_index].url = event.url
                self._extra -= 1  # which is no message
            case events.Finished():
                if event.error is not None:
                    raise event.error
                await self._write_completed(event, numbered, ticket)
                return True
            case _:
                message = messages.response(event, self._request)
                await self._write(message, numbered.sequence + self._extra, numbered.time)
        return False

    async def _write_image(self, event: events.ImageReady, numbered: events.Numbered, ticket: Ticket) -> None:
        request_id = self._request.request_id
        header = pb.GenerateImageResponse(request_id=request_id, image_header=messages.image_header(event))
        await self._write(header, numbered.sequence + self._extra, numbered.time)
        data, size = memoryview(event.image.data), self._chunk_bytes
        for offset in range(0, len(data), size):
            _raise_if_stopped(ticket)
            # filled in place: an ImageChunk made beforehand is copied, 256 KiB in 0.8 ms instead of 0.02
            chunk = pb.GenerateImageResponse(request_id=request_id)
            chunk.image_chunk.image_index = event.image_index
            chunk.image_chunk.offset = offset
            chunk.image_chunk.data = bytes(data[offset : offset + size])
            self._extra += 1
            await self._write(chunk, numbered.sequence + self._extra, numbered.time)
        self._images[event.image_index] = messages.image_summary(facts(event))

    async def _write_completed(self, event: events.Finished, numbered: events.Numbered, ticket: Ticket) -> None:
        if self._answer is None:
            message = self._completed(event, ticket, ticket.delivered())
        else:
            message = await self._send(self._answer, event, ticket)
        await self._write(message, numbered.sequence + self._extra, time.time())

    async def _send(self, answer: Writer, event: events.Finished, ticket: Ticket) -> pb.GenerateImageResponse:
        """Sends everything at once; returns `completed`, whose times are those of the moment before."""
        _raise_if_stopped(ticket)
        with ExitStack() as sending:
            for index in sorted(self._images):
                sending.enter_context(ticket.sending(index))
            message = self._completed(event, ticket, ticket.sum_up())
            await answer.write(message)
        ticket.delivered()
        return message

    def _completed(self, event: events.Finished, ticket: Ticket, total: float) -> pb.GenerateImageResponse:
        images = [self._images[index] for index in sorted(self._images)]
        completed = messages.completed(event, timings=ticket.timings(), total=total, images=images)
        return pb.GenerateImageResponse(request_id=self._request.request_id, completed=completed)

    async def _write(self, message: pb.GenerateImageResponse, sequence: int, when: float) -> None:
        message.sequence = sequence
        message.event_time.CopyFrom(messages.timestamp(when))
        await self._writer.write(message)


def _raise_if_stopped(ticket: Ticket) -> None:
    """Ends the sending of a generation that was cancelled, or whose deadline passed, after its last device work."""
    if ticket.stopped is not None:
        raise ticket.stopped
