"""The journals of all generations: bounded in bytes and in time.

Every generation has a journal while it runs. Afterwards a journal stays only if its generation was asked to outlive its
call, and not for ever. When all of them together hold too many bytes, messages are dropped: of the tenant that holds
the most, so that nobody who keeps little loses it to somebody who keeps much.

Everything here belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from imagegen_server import errors
from imagegen_server.api.journal import Journal
from imagegen_server.core import GenerationKey

SLACK: Final = 128
"""Part of the bound that is freed once it is exceeded, so that not every message looks for what to drop: 1 / this."""


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


class _Share:
    """The journals of one tenant that hold messages, and how many bytes: what may be dropped."""

    def __init__(self) -> None:
        self.size = 0
        self._plain: dict[Journal, None] = {}
        """Of generations that end with their calls."""
        self._ended: dict[Journal, None] = {}
        """Of others, oldest end first."""
        self._running: dict[Journal, None] = {}

    def __bool__(self) -> bool:
        return bool(self._plain or self._ended or self._running)

    def hold(self, journal: Journal) -> None:
        """Notes that a journal holds messages, or that one which does has ended."""
        self.let_go(journal)
        kind = self._ended if journal.ended else self._running
        (kind if journal.outlives_call else self._plain)[journal] = None

    def let_go(self, journal: Journal) -> None:
        """Notes that a journal holds nothing any more."""
        for kind in (self._plain, self._ended, self._running):
            kind.pop(journal, None)

    def victims(self) -> Iterator[Journal]:
        """Yields the journals in the order in which they lose messages."""
        yield from list(self._plain)
        yield from list(self._ended)
        yield from sorted(self._running, key=lambda journal: -journal.size)


class Journals:
    """Every journal that is held, and the bound that they share.

    A journal tells it what changes: `grew`, `fit` once one of its readers has read on, `joined`, `left` and `ended`. In
    return it has journals `drop` messages, and counts what that frees.
    """

    def __init__(self, settings: JournalSettings) -> None:
        self._settings = settings
        self._by_id: dict[GenerationKey, Journal] = {}
        self._held: dict[Journal, asyncio.TimerHandle | None] = {}
        """Every journal that somebody writes, reads or can find; with what will drop it."""
        self._shares: dict[str, _Share] = {}
        """Of the tenants whose journals hold messages."""
        self._readers = 0
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

    def grew(self, journal: Journal, size: int) -> None:
        """Counts the bytes of a message that a journal was written, and drops what is too much."""
        share = self._shares.setdefault(_tenant(journal), _Share())
        if journal.size == size:  # else it held messages before
            share.hold(journal)
        share.size += size
        self.size += size
        self.fit()

    def fit(self) -> None:
        """Drops messages until what is left is a little below the bound, if it is above.

        Those of the tenant that holds most bytes: first of its generations that end with their calls, then of those
        that have ended, oldest end first, then of the others, largest first.
        """
        if not self.over():
            return
        enough = self._settings.max_bytes - self._settings.max_bytes // SLACK
        for share in sorted(self._shares.values(), key=lambda share: -share.size):
            for journal in share.victims():
                self._freed(journal, journal.drop(self.size - enough), everything=not journal.size)
                if self.size <= enough:
                    return

    def ended(self, journal: Journal) -> None:
        """Lets a journal go when its time is up: at once, or after the time for which it is kept."""
        if journal.size:
            self._shares[_tenant(journal)].hold(journal)
        if journal.outlives_call and self._by_id.get(journal.key) is journal:
            loop = asyncio.get_running_loop()
            self._held[journal] = loop.call_later(self._settings.seconds, self._expire, journal)
        else:
            self._expire(journal)

    def joined(self, journal: Journal) -> None:
        """Notes that a journal has a reader more."""
        self._readers += 1

    def left(self, journal: Journal) -> None:
        """Notes that a reader left."""
        self._readers -= 1
        self._let_go(journal)
        if not self._readers:
            self._idle.set()

    async def all_read(self) -> None:
        """Returns once nobody is being written to."""
        while self._readers:
            self._idle.clear()
            await self._idle.wait()

    def _freed(self, journal: Journal, size: int, *, everything: bool) -> None:
        """Counts what a journal dropped, or takes along when it goes; whether that is everything it held."""
        if not size:
            return
        share = self._shares[_tenant(journal)]
        share.size -= size
        self.size -= size
        if everything:
            share.let_go(journal)
            if not share:
                del self._shares[_tenant(journal)]

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
        self._freed(journal, journal.size, everything=True)
        if timer is not None:
            timer.cancel()


def _tenant(journal: Journal) -> str:
    return journal.key[0]
