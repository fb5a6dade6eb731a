"""What generations sent, kept for readers: bounded, gapless, and nobody disturbs anybody."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref

import grpc
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api.journal import OVERHEAD, PATIENCE, Journal
from imagegen_server.api.journals import Journals, JournalSettings
from imagegen_server.api.status import RpcError, RpcFailure

KIB = 1024


class Reader:
    """Remembers what it was written; stands still before a message until it is let."""

    def __init__(self, stand_at: int = 0) -> None:
        self.sequences: list[int] = []
        self.go = asyncio.Event()
        self._stand_at = stand_at

    async def write(self, message: pb.GenerateImageResponse) -> None:
        """Takes a message."""
        if message.sequence == self._stand_at:
            await self.go.wait()
        self.sequences.append(message.sequence)


def message(sequence: int, size: int = KIB) -> pb.GenerateImageResponse:
    """Returns a message that costs about `size` bytes beyond the overhead."""
    return pb.GenerateImageResponse(sequence=sequence, image_chunk=pb.ImageChunk(data=b"x" * size))


async def written(journal: Journal, *sequences: int, size: int = KIB) -> None:
    """Writes messages."""
    for sequence in sequences:
        await journal.write(message(sequence, size))


def journals(messages: int = 1000, seconds: float = 600.0) -> Journals:
    """Returns journals with room for so many messages of a KiB."""
    return Journals(JournalSettings(max_bytes=messages * (KIB + OVERHEAD + 40), seconds=seconds))


async def test_readers_get_what_was_written_and_what_comes() -> None:
    """Each from where it asks, to the end; numbers may skip."""
    journal = journals().open(("", "a"), b"", outlives_call=True)
    await written(journal, 1, 2, 5)
    readers = {after: Reader() for after in (0, 2, 3, 5)}
    tasks = [asyncio.create_task(journal.copy(reader, after)) for after, reader in readers.items()]
    await asyncio.sleep(0)
    await written(journal, 6, 7)
    journal.end(None)
    await asyncio.gather(*tasks)
    late = Reader()
    await journal.copy(late, 6)
    assert {after: reader.sequences for after, reader in readers.items()} == {
        0: [1, 2, 5, 6, 7],
        2: [5, 6, 7],
        3: [5, 6, 7],
        5: [6, 7],
    }
    assert late.sequences == [7]


async def test_readers_learn_what_a_generation_failed_with() -> None:
    """After everything that was sent before."""
    journal, reader = journals().open(("", "a"), b"", outlives_call=True), Reader()
    await written(journal, 1)
    failure = RpcFailure(code=grpc.StatusCode.INTERNAL, reason="NUMERIC", message="no")
    journal.end(failure)
    with pytest.raises(RpcError) as caught:
        await journal.copy(reader)
    assert (caught.value.failure, reader.sequences) == (failure, [1])


async def test_a_place_that_was_not_reached_is_refused() -> None:
    """A reader that claims more than there is would miss what comes."""
    journal = journals().open(("", "a"), b"", outlives_call=True)
    await written(journal, 1, 2)
    with pytest.raises(errors.InvalidRequest, match="the last event so far, 2, got 3"):
        await journal.copy(Reader(), 3)


async def test_what_was_dropped_is_said_never_skipped() -> None:
    """A reader whose next message is gone is told so, and where it could begin."""
    journal = journals(3).open(("", "a"), b"", outlives_call=True)
    await written(journal, 1, 2, 3, 4, 6)
    with pytest.raises(errors.EventsNotKept) as caught:
        await journal.copy(Reader(), 1)
    assert caught.value.first_kept == 3
    reader = Reader()
    journal.end(None)
    await journal.copy(reader, 2)
    assert reader.sequences == [3, 4, 6]


async def test_the_bound_holds_for_all_together_whatever_comes() -> None:
    """The sum of what is held is the sum of the journals and never above the bound."""
    held, bound = journals(10), 10 * (KIB + OVERHEAD + 40)
    opened = []
    for number in range(30):
        journal = held.open(("", str(number)), b"", outlives_call=number % 3 != 0)
        opened.append(journal)
        for sequence in range(1, 1 + number % 7):
            await journal.write(message(sequence, 300 * (number % 5)))
            assert held.size <= bound
        if number % 4:
            journal.end(None)
        assert held.size == sum(one.size for one in opened if held.find(one.key) is one)


async def test_drops_begin_with_what_was_asked_for_least() -> None:
    """First generations that end with their calls, then the oldest that ended, then the largest that runs."""
    held = journals(8)
    plain = held.open(("", "plain"), b"", outlives_call=False)
    first, second = (held.open(("", name), b"", outlives_call=True) for name in ("first", "second"))
    small, large = (held.open(("", name), b"", outlives_call=True) for name in ("small", "large"))
    for journal in (plain, first, second):
        await written(journal, 1, 2)
    second.end(None)
    first.end(None)

    def sizes() -> list[int]:
        return [journal.size // KIB for journal in (plain, second, first, small, large)]

    await written(small, 1)
    await written(large, 1, 2)
    assert sizes() == [1, 3, 3, 1, 3]
    await written(large, 3, 4)
    assert sizes() == [0, 1, 3, 1, 6]
    await written(large, 5, 6, 7)
    assert sizes() == [0, 0, 0, 1, 10]
    await written(small, 2)
    assert sizes() == [0, 0, 0, 3, 9]


async def test_drops_are_of_the_tenant_that_holds_most() -> None:
    """Whatever it holds, and however old the others' is: nobody loses what they kept to somebody who keeps more."""
    held = journals(8)
    modest = held.open(("modest", "a"), b"", outlives_call=True)
    await written(modest, 1, 2)
    modest.end(None)
    greedy = []
    for number in range(20):
        greedy.append(held.open(("greedy", str(number)), b"", outlives_call=number % 2 == 0))
        await written(greedy[-1], 1, 2, 3)
        if greedy[-1].outlives_call:
            greedy[-1].end(None)
    assert (modest.size // KIB, sum(journal.size for journal in greedy) // KIB) == (3, 9)
    another = held.open(("another", "a"), b"", outlives_call=False)
    await written(another, *range(1, 20))
    assert modest.size // KIB == 3
    assert another.size // KIB in (4, 5)


@pytest.mark.parametrize("tenants", ["one", "many"])
async def test_a_bound_that_is_reached_costs_what_is_dropped_however_many_were_emptied(tenants: str) -> None:
    """The journals that hold nothing any more, most of them after a while, are not looked at, nor are their tenants."""

    async def calls(emptied: int) -> int:
        """Returns how many functions are called to write some messages at the bound."""
        held = journals(8)
        for number in range(emptied + 8):
            tenant = "" if tenants == "one" else str(number)
            journal = held.open((tenant, str(number)), b"", outlives_call=True)
            await written(journal, 1)
            journal.end(None)
        counted = 0

        def count(*_: object) -> None:
            nonlocal counted
            counted += 1

        last = held.open(("", "last"), b"", outlives_call=True)
        sys.setprofile(count)
        try:
            await written(last, *range(1, 20))
        finally:
            sys.setprofile(None)
        return counted

    few, many = await calls(10), await calls(1000)
    assert many < 2 * few


async def test_a_slow_watcher_disturbs_nobody() -> None:
    """It falls behind what is kept and is told so; the writer and the others go on meanwhile."""
    journal = journals(2).open(("", "a"), b"", outlives_call=True)
    slow, quick = Reader(stand_at=2), Reader()
    tasks = [asyncio.create_task(journal.copy(reader)) for reader in (slow, quick)]
    for sequence in range(1, 9):
        await asyncio.wait_for(journal.write(message(sequence)), 5)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    journal.end(None)
    await tasks[1]
    assert quick.sequences == list(range(1, 9))
    slow.go.set()
    with pytest.raises(errors.EventsNotKept):
        await tasks[0]
    assert slow.sequences == [1, 2]


async def test_a_watcher_that_reads_on_misses_nothing() -> None:
    """Though more is written at once than may be held, and whatever others hold: it reads as soon as it may run."""
    held = journals(2)
    kept = held.open(("", "kept"), b"", outlives_call=True)
    await written(kept, 1, 2)
    kept.end(None)
    for outlives_call in (True, False):
        journal, reader = held.open(("", "a"), b"", outlives_call=outlives_call), Reader()
        reading = asyncio.create_task(journal.copy(reader))
        await asyncio.sleep(0)
        await written(journal, *range(1, 9))
        journal.end(None)
        await reading
        assert reader.sequences == list(range(1, 9))
        assert held.size <= 3 * (KIB + OVERHEAD + 40)


async def test_a_watcher_that_is_slow_misses_nothing() -> None:
    """As long as it takes something now and then, it may be behind all the time."""

    class Slow(Reader):
        async def write(self, message: pb.GenerateImageResponse) -> None:
            """Takes a message after a while."""
            await asyncio.sleep(0.3 * PATIENCE)
            await super().write(message)

    journal, reader = journals(1).open(("", "a"), b"", outlives_call=True), Slow()
    reading = asyncio.create_task(journal.copy(reader))
    await asyncio.sleep(0)
    await written(journal, *range(1, 8))
    journal.end(None)
    await reading
    assert reader.sequences == list(range(1, 8))


async def test_a_watcher_that_stands_still_is_waited_for_once() -> None:
    """The writer, and with it who else reads, loses a moment for it in all; and nothing where there is room."""
    held = journals(2)
    journal = held.open(("", "a"), b"", outlives_call=True)
    deaf, quick = Reader(stand_at=1), Reader()
    tasks = [asyncio.create_task(journal.copy(reader)) for reader in (deaf, quick)]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    writing = asyncio.create_task(written(journal, 1, 2))
    await asyncio.sleep(0)
    assert writing.done()
    began = loop.time()
    await written(journal, *range(3, 40))
    assert PATIENCE <= loop.time() - began < 10 * PATIENCE
    assert held.size <= 2 * (KIB + OVERHEAD + 40)
    journal.end(None)
    await tasks[1]
    assert quick.sequences == list(range(1, 40))
    deaf.go.set()
    with pytest.raises(errors.EventsNotKept):
        await tasks[0]


async def test_a_watcher_that_comes_after_the_end_holds_nothing() -> None:
    """What has ended is dropped under it, as the bound asks: those who run now need the room."""
    held = journals(2)
    ended, runs = (held.open(("", name), b"", outlives_call=True) for name in ("ended", "runs"))
    await written(ended, 1, 2)
    ended.end(None)
    late = Reader(stand_at=1)
    reading = asyncio.create_task(ended.copy(late))
    await asyncio.sleep(0)
    writing = asyncio.create_task(written(runs, 1, 2))
    await asyncio.sleep(0)
    assert writing.done()
    assert (ended.size, held.size) == (0, runs.size)
    late.go.set()
    with pytest.raises(errors.EventsNotKept):
        await reading


async def test_a_slow_caller_is_waited_for_and_loses_nothing() -> None:
    """The call that asked for a generation larger than the bound gets all of it, at its own pace."""
    held = journals(2)
    journal, caller = held.open(("", "a"), b"", outlives_call=True), Reader(stand_at=2)
    reading = asyncio.create_task(journal.copy(caller, caller=True))
    await asyncio.sleep(0)
    writing = asyncio.create_task(written(journal, *range(1, 9)))
    await asyncio.sleep(0.01)
    assert not writing.done()
    assert held.size <= 3 * (KIB + OVERHEAD + 40)
    caller.go.set()
    await writing
    journal.end(None)
    await reading
    assert caller.sequences == list(range(1, 9))


async def test_a_caller_that_leaves_is_waited_for_no_longer() -> None:
    """The writer goes on when its caller is gone, within the bound."""
    held = journals(2)
    journal = held.open(("", "a"), b"", outlives_call=True)
    reading = asyncio.create_task(journal.copy(Reader(stand_at=1), caller=True))
    await asyncio.sleep(0)
    writing = asyncio.create_task(written(journal, *range(1, 9)))
    await asyncio.sleep(0.01)
    assert not writing.done()
    reading.cancel()
    await asyncio.wait({reading})
    await asyncio.sleep(0)
    assert writing.done()
    assert held.size <= 2 * (KIB + OVERHEAD + 40)


async def test_journals_go_when_their_time_is_up() -> None:
    """Those of generations that end with their calls at once, the others after a while; readers may read on."""
    held = journals(seconds=0.05)
    plain, kept = held.open(("", "plain"), b"", outlives_call=False), held.open(("", "kept"), b"", outlives_call=True)
    for journal in (plain, kept):
        await written(journal, 1, 2)
    reader = Reader(stand_at=2)
    reading = asyncio.create_task(plain.copy(reader))
    await asyncio.sleep(0)
    plain.end(None)
    kept.end(None)
    assert held.find(("", "plain")) is None
    assert held.find(("", "kept")) is kept
    assert held.size == plain.size + kept.size > 0
    all_read = asyncio.create_task(held.all_read())
    await asyncio.sleep(0)
    assert not all_read.done()
    reader.go.set()
    await reading
    assert reader.sequences == [1, 2]
    await all_read
    while held.find(("", "kept")):
        await asyncio.sleep(0.01)
    assert held.size == 0


async def test_an_id_that_is_used_again_has_a_new_journal() -> None:
    """The earlier one goes, at once or with its last reader; its time that is up later touches nothing."""
    held = journals(seconds=0.05)
    earlier = held.open(("", "a"), b"", outlives_call=True)
    await written(earlier, 1)
    earlier.end(None)
    later = held.open(("", "a"), b"", outlives_call=True)
    assert (held.find(("", "a")), held.size) == (later, 0)
    memory = weakref.ref(earlier)
    del earlier
    gc.collect()
    assert memory() is None, "its messages are not kept until its time is up"
    await written(later, 1)
    await asyncio.sleep(0.1)
    assert (held.find(("", "a")), held.size) == (later, later.size)
    again = held.open(("", "a"), b"", outlives_call=True)  # the engine may be done before its writer is
    await written(later, 2)
    later.end(None)
    assert (held.find(("", "a")), held.size) == (again, 0)


@pytest.mark.parametrize(("size", "seconds"), [(-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_settings_that_cannot_work_are_refused(size: int, seconds: float) -> None:
    """At start, not at the first generation."""
    with pytest.raises(errors.StartupError):
        JournalSettings(max_bytes=size, seconds=seconds)
