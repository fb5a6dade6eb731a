"""What one generation sent, message by message, for those who watch.

When all journals together hold too many bytes (`journals`), messages are dropped, oldest first; whoever asks for one of
them is told so, and never sees a gap. What two kinds of readers have yet to read is not dropped, and above
the bound the next event waits for them: the calls that generate, as on streams of their own; and those who follow a
generation that runs, while they take something every `PATIENCE` seconds. Else even the quickest of these would miss an
image above the bound, which is written at once where no caller slows that down.

Everything here belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api.status import RpcError, RpcFailure
from imagegen_server.api.stream import Announce, Writer
from imagegen_server.core import GenerationKey

OVERHEAD: Final = 512
"""Bytes that a message is taken to cost beyond its own."""
PATIENCE: Final = 0.25
"""Seconds for which a watcher that takes nothing is waited for: some round trips. One that is deaf costs it once."""


class Bound(Protocol):
    """What a journal tells of itself, and asks for: the bound that all journals share."""

    def over(self) -> bool:
        """Returns whether more is held than should be."""
        ...

    def grew(self, journal: Journal, size: int) -> None:
        """Counts the bytes of a message that a journal was written, and drops what is too much."""
        ...

    def fit(self) -> None:
        """Drops messages until what is left is within the bound, or none is left that may be dropped."""
        ...

    def ended(self, journal: Journal) -> None:
        """Notes that nothing more is written to a journal."""
        ...

    def joined(self, journal: Journal) -> None:
        """Notes that a journal has a reader more."""
        ...

    def left(self, journal: Journal) -> None:
        """Notes that a reader left."""
        ...


@dataclass(eq=False, slots=True)
class _Place:
    """How far somebody has read who is waited for."""

    caller: bool
    """Whether this is a call that asked for the generation."""
    read: int
    """Sequence of the last message that was taken."""
    since: float
    """When that was, or when the next one came; by the loop's clock."""

    def waited_for(self, now: float) -> bool:
        """Returns whether what it has yet to read waits for it."""
        return self.caller or now - self.since < PATIENCE


class Journal:
    """The messages of one generation, in order. Made by `Journals`, whose bound it keeps to."""

    def __init__(self, owner: Bound, key: GenerationKey, fingerprint: bytes, *, outlives_call: bool) -> None:
        self.key = key
        self.fingerprint = fingerprint
        """Of the request's body."""
        self.outlives_call = outlives_call
        self.readers = 0
        """Those who are being written to now."""
        self.ended = False
        self.size = 0
        """Bytes held."""
        self._owner = owner
        self._failure: RpcFailure | None = None
        self._messages: list[pb.GenerateImageResponse] = []
        self._sequences: list[int] = []
        self._dropped = 0
        """Sequence of the last message that was dropped; 0 if none was."""
        self._last = 0
        """Sequence of the last message that was written."""
        self._places = set[_Place]()
        """Of the calls that asked for the generation, and of those who follow it."""
        self._changed = asyncio.Event()
        self._read = asyncio.Event()

    async def write(self, message: pb.GenerateImageResponse) -> None:
        """Adds the next message; waits, if too much is held, until those who are waited for have read on."""
        for place in self._places:
            if place.read >= self._last:
                place.since = _now()
        self._messages.append(message)
        self._sequences.append(message.sequence)
        self._last = message.sequence
        cost = _cost(message)
        self.size += cost
        self._owner.grew(self, cost)
        self._tell()
        while self._owner.over() and self._taken() < self._last:
            self._read.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._read.wait()
            self._owner.fit()

    def end(self, failure: RpcFailure | None) -> None:
        """Notes that nothing follows. `failure` is what the generation ended with; None if it completed."""
        self.ended, self._failure = True, failure
        self._tell()
        self._owner.ended(self)

    def check(self, after: int) -> None:
        """Raises `errors.EventsNotKept` if a message after sequence `after` is gone.

        Raises `errors.InvalidRequest` if there has been no message of that sequence yet: its reader mistakes this
        generation for another, or would miss what comes until then.
        """
        if after > self._last:
            text = f"must be at most the sequence of the last event so far, {self._last}, got {after}"
            raise errors.InvalidRequest((errors.Violation(field="after_sequence", description=text),))
        if after < self._dropped:
            first = self._sequences[0] if self._sequences else None
            kept = "none" if first is None else f"those from sequence {first} on"
            raise errors.EventsNotKept(
                f"events after sequence {after} were dropped to bound the server's memory; kept are {kept}",
                first_kept=first,
            )

    async def copy(
        self, writer: Writer, after: int = 0, *, caller: bool = False, announce: Announce | None = None
    ) -> None:
        """Writes every message after sequence `after`, those to come included, until the generation has ended.

        `caller` says whether this is a call that asked for the generation, not one that watches it; `announce` is
        awaited before the first message. Raises the failure that the generation ended with; what `check` raises, also
        if a slow reader falls behind what is kept; and what `writer` and `announce` raise.
        """
        self.check(after)
        self.readers += 1
        self._owner.joined(self)
        place = _Place(caller=caller, read=after, since=_now())
        if caller or not self.ended:
            self._places.add(place)  # at once: what is written while the headers are sent waits for it
        try:
            if announce is not None:
                await announce()
            while True:
                self.check(after)
                if after > place.read:
                    place.read, place.since = after, _now()
                    self._note_read()
                changed, position = self._changed, bisect_right(self._sequences, after)
                if position < len(self._messages):
                    message = self._messages[position]
                    await writer.write(message)
                    after = message.sequence
                elif self.ended:
                    break
                else:
                    await changed.wait()
        finally:
            self.readers -= 1
            self._places.discard(place)
            self._note_read()
            self._owner.left(self)
        if self._failure is not None:
            raise RpcError(self._failure)

    def drop(self, excess: int) -> int:
        """Drops messages, oldest first, until `excess` bytes are free or none is left that may be dropped.

        Returns the bytes that it freed.
        """
        count, freed = 0, 0
        may = bisect_right(self._sequences, self._taken())
        while count < may and freed < excess:
            freed += _cost(self._messages[count])
            count += 1
        if count:
            self._dropped = self._sequences[count - 1]
            del self._messages[:count], self._sequences[:count]
            self.size -= freed
        return freed

    def _taken(self) -> int:
        """Returns the sequence up to which everybody has read who is waited for."""
        now = _now()
        return min((place.read for place in self._places if place.waited_for(now)), default=self._last)

    def _note_read(self) -> None:
        """Drops what was read, if too much is held, and lets the writer go on."""
        self._owner.fit()
        self._read.set()

    def _tell(self) -> None:
        """Wakes the readers that wait for what comes next."""
        self._changed.set()
        self._changed = asyncio.Event()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _cost(message: pb.GenerateImageResponse) -> int:
    return message.ByteSize() + OVERHEAD
