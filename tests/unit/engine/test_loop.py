"""The device thread while it has nothing to do: it sleeps, and wakes for whatever comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from imagegen_server.core import Job, Stage
from imagegen_server.engine import Engine, EngineSettings, Event, Finished, QueueUpdate, Ticket
from imagegen_server.errors import DeadlineExceeded, Unavailable, UnavailableReason
from imagegen_server.models.fake.runner import FakeRunner
from imagegen_server.models.fake.script import FakeTiming
from support.behind import BehindRunner
from support.referee import Referee
from support.simulation import PROFILE, World, encode, encode_preview, make_request
from support.waiting import eventually

OVER = Unavailable(UnavailableReason.DRAINING, "over")


@contextmanager
def resting(**settings: Any) -> Iterator[tuple[Engine, Ticket]]:
    """Gives an engine whose device may do nothing, and the ticket of who does not read what it made."""
    engine = Engine(
        runner=FakeRunner(PROFILE, timing=FakeTiming(evaluation=0.0, text_encode=0.0, vae_decode=0.0)),
        encode=encode,
        encode_preview=encode_preview,
        observer=Referee(),
        settings=EngineSettings(max_delivering=1, **settings),
    )
    thread = threading.Thread(target=engine.run_forever, daemon=True)
    thread.start()
    # without the refiner, so that no estimate refuses those who ask for it
    unread = make_request("unread", use_refinement=False)
    ticket = engine.submit(unread, fingerprint=b"", deadline=None, on_ready=lambda: None)
    eventually(lambda: engine.queue_state().delivering == 1)
    yield engine, ticket
    engine.stop(OVER)
    thread.join(10)
    assert not thread.is_alive()


class Caller:
    """Somebody who waits in the queue."""

    def __init__(self, engine: Engine, name: str, *, seconds: float | None = None) -> None:
        self._ready = threading.Event()
        deadline = None if seconds is None else time.monotonic() + seconds
        self._ticket: Ticket = engine.submit(
            make_request(name), fingerprint=b"", deadline=deadline, on_ready=self._ready.set
        )

    def hears(self, wanted: Callable[[Event], bool]) -> Event:
        """Returns the first event that is wanted, once it has come."""
        while True:
            assert self._ready.wait(30)
            self._ready.clear()
            for numbered in self._ticket.take():
                if wanted(numbered.event):
                    return numbered.event


def test_a_deadline_ends_what_waits() -> None:
    """The first one in the queue, whoever else has more time."""
    with resting() as (engine, _):
        Caller(engine, "patient", seconds=300.0)
        last = Caller(engine, "hurried", seconds=0.1).hears(lambda event: isinstance(event, Finished))
        assert isinstance(last, Finished)
        assert isinstance(last.error, DeadlineExceeded)


def test_who_has_read_makes_room() -> None:
    """What waits for that begins at once."""
    with resting() as (engine, unread):
        waiting = Caller(engine, "next")
        assert not engine.wait_idle(0.05), "by now it sleeps"
        unread.delivered()
        unread.close()
        waiting.hears(lambda event: isinstance(event, Finished))


def test_news_of_the_queue_are_late_at_most() -> None:
    """Two give up within an interval, and the third hears of the second one, too, though nothing else happens."""
    with resting(queue_update_interval=0.1) as (engine, _):
        last = [Caller(engine, name) for name in ("a", "b", "c")][-1]
        for name, position in (("a", 1), ("b", 0)):
            engine.cancel(name)
            last.hears(_told(position))


def _told(position: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, QueueUpdate) and event.position == position


def test_what_comes_while_the_device_is_waited_for_is_not_slept_over() -> None:
    """The thread looks once more before it sleeps: while it waits for the device, it holds no lock."""

    class Settling(BehindRunner):
        """Is asked for more while it is waited for."""

        def settle(self) -> None:
            """Waits, and has a caller come."""
            super().settle()
            if world.referee.outcomes and "next" not in world.tickets:
                world.submit(make_request("next"))

    def seconds(stage: Stage, jobs: Sequence[Job]) -> float:
        if world.runner.evaluations["first", 0, Stage.BASE] == 3:
            world.engine.cancel("first")
        if jobs[0].request.request_id == "next":
            world.engine.stop(OVER)
        return 0.01

    world = World(device=Settling, seconds=seconds)
    world.submit(make_request("first"))
    thread = threading.Thread(target=world.engine.run_forever, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert sorted(world.referee.waits) == ["first", "next"]


def test_the_end_wakes_it() -> None:
    """A device thread that sleeps, since nobody has asked for anything, returns when the engine is stopped."""
    world = World()
    thread = threading.Thread(target=world.engine.run_forever, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive(), "it sleeps"
    world.engine.stop(OVER)
    thread.join(10)
    assert not thread.is_alive()
