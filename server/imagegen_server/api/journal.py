"""What generations sent, message by message, for those who watch: bounded in bytes and in time.

Every generation has a journal while it runs. Afterwards a journal stays only if its generation was asked to outlive its
call, and not for ever. When all journals together hold too many bytes, messages are dropped, oldest first; whoever asks
for one of them is told so, and never sees a gap. What two kinds of readers have yet to read is not dropped, and above
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
from typing import Final

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api.status import RpcError, RpcFailure
from imagegen_server.api.stream import Announce, Writer
from imagegen_server.core import GenerationKey

OVERHEAD: Final = 512
"""Bytes that a message is taken to cost beyond its own."""
PATIENCE: Final = 0.25
"""Seconds for which a watcher that takes nothing is waited for: some round trips. One that is deaf costs it once."""


@dataclass(kw_only=True, frozen=True, slots=True)
class JournalSettings:
    """How much is kept for those who watch."""

    max_bytes: int = 256 * 2**20
    """Of all journals together; at least 0."""
    seconds: float = 600.0
    """How long the events of a generation that outlives its call are kept after its end, above 0."""

    def __post_init__(self) -> None:
        """Raises `errors.StartupError` for values that cannot work."""
        if self.max_bytes < 0 or not self.seconds > 0:
            raise errors.StartupError(f"cannot keep {self.max_bytes} bytes of events for {self.seconds:g} s")


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

    def __init__(self, owner: Journals, key: GenerationKey, fingerprint: bytes, *, outlives_call: bool) -> None:
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
        self._owner.grew(cost)
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


class Journals:
    """Every journal that is held, and the bound that they share.

    A journal tells it what changes: `grew`, `fit` once one of its readers has read on, `left` and `ended`. In return it
    has journals `drop` messages, and counts what that frees.
    """

    def __init__(self, settings: JournalSettings) -> None:
        self._settings = settings
        self._by_id: dict[GenerationKey, Journal] = {}
        self._held: dict[Journal, asyncio.TimerHandle | None] = {}
        """Every journal with messages or a writer, oldest end first; with what will drop it."""
        self._idle = asyncio.Event()
        self.size = 0
        """Bytes held by all journals together."""

    def over(self) -> bool:
        """Returns whether more is held than should be."""
        return self.size > self._settings.max_bytes

    def open(self, key: GenerationKey, fingerprint: bytes, *, outlives_call: bool) -> Journal:
        """Returns a new journal for a generation that was admitted; an earlier one of the same id is let go."""
        journal = Journal(self, key, fingerprint, outlives_call=outlives_call)
        earlier = self._by_id.get(key)
        self._by_id[key], self._held[journal] = journal, None
        if earlier is not None:
            self._let_go(earlier)
        return journal

    def find(self, key: GenerationKey) -> Journal | None:
        """Returns the journal of a generation; None if it has none any more."""
        return self._by_id.get(key)

    def grew(self, size: int) -> None:
        """Counts the bytes of a message that a journal was written, and drops what is too much."""
        self.size += size
        self.fit()

    def fit(self) -> None:
        """Drops messages until what is left is within the bound.

        First those of generations that end with their calls, then those that have ended, oldest end first, then those
        of the others, largest first.
        """
        if not self.over():
            return
        held = list(self._held)
        order = [
            *(journal for journal in held if not journal.outlives_call),
            *(journal for journal in held if journal.outlives_call and journal.ended),
            *sorted((j for j in held if j.outlives_call and not j.ended), key=lambda journal: -journal.size),
        ]
        for journal in order:
            self.size -= journal.drop(self.size - self._settings.max_bytes)
            if not self.over():
                return

    def ended(self, journal: Journal) -> None:
        """Lets a journal go when its time is up: at once, or after the time for which it is kept."""
        self._held[journal] = self._held.pop(journal, None)
        if journal.outlives_call and self._by_id.get(journal.key) is journal:
            loop = asyncio.get_running_loop()
            self._held[journal] = loop.call_later(self._settings.seconds, self._expire, journal)
        else:
            self._expire(journal)

    def left(self, journal: Journal) -> None:
        """Notes that a reader left."""
        self._let_go(journal)
        if not any(held.readers for held in self._held):
            self._idle.set()

    async def all_read(self) -> None:
        """Returns once nobody is being written to."""
        while any(journal.readers for journal in self._held):
            self._idle.clear()
            await self._idle.wait()

    def _expire(self, journal: Journal) -> None:
        """Is not found any more; those who read it may read on."""
        if self._by_id.get(journal.key) is journal:
            del self._by_id[journal.key]
        self._let_go(journal)

    def _let_go(self, journal: Journal) -> None:
        """Forgets a journal that nobody writes, reads or can find."""
        found = self._by_id.get(journal.key) is journal
        if found or journal.readers or not journal.ended or journal not in self._held:
            return
        timer = self._held.pop(journal)
        self.size -= journal.size
        if timer is not None:
            timer.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _cost(message: pb.GenerateImageResponse) -> int:
    return message.ByteSize() + OVERHEAD
