"""Cancelling, and what has been delivered by then."""

from __future__ import annotations

import pytest

from imagegen_server.core import GenerationState, Outcome
from imagegen_server.engine import Finished
from imagegen_server.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    NotFound,
    Unavailable,
    UnavailableReason,
)
from support.ends import finished
from support.simulation import World, make_request


def test_a_cancel_after_the_delivery_comes_too_late() -> None:
    """While the caller is told of the end, the generation has completed for everybody else as well."""
    world = World()
    ticket = world.submit(make_request("r"))
    while world.engine.turn():
        pass
    assert isinstance(ticket.take()[-1].event, Finished)
    assert ticket.delivered() > 0
    assert world.engine.cancel("r") is GenerationState.COMPLETED
    ticket.close()
    assert world.referee.outcomes == {"r": [Outcome.OK]}
    assert world.engine.cancel("r") is GenerationState.COMPLETED


@pytest.mark.parametrize("error", [Cancelled("left"), DeadlineExceeded("read nothing"), RuntimeError("a bug")])
def test_what_was_delivered_has_completed_however_its_call_ends(error: Exception) -> None:
    """A caller that is lost while it is told of the end, and the server's own end, change nothing."""
    world = World()
    ticket = world.submit(make_request("r"))
    while world.engine.turn():
        pass
    ticket.delivered()
    world.engine.stop(Unavailable(UnavailableReason.DRAINING, "the grace period is over"))
    assert not world.referee.outcomes
    ticket.close(error)
    assert world.referee.outcomes == {"r": [Outcome.OK]}
    report = world.engine.report("r")
    assert (report.state, report.finished.error, report.fraction) == (GenerationState.COMPLETED, None, 1.0)


def test_what_was_cancelled_is_not_delivered() -> None:
    """The other way round the caller is told of the cancel, not of the end."""
    world = World()
    ticket = world.submit(make_request("r"))
    while world.engine.turn():
        pass
    assert world.engine.cancel("r") is GenerationState.CANCELLED
    with pytest.raises(Cancelled):
        ticket.delivered()
    ticket.close(Cancelled("left"))
    assert world.referee.outcomes == {"r": [Outcome.CANCELLED]}


def test_cancel_is_idempotent_and_knows_what_ended() -> None:
    """Cancelling twice, or after the end, changes nothing; an unknown id is an error."""
    world = World()
    world.submit(make_request("r"))
    world.engine.turn()
    assert world.engine.cancel("r") is GenerationState.CANCELLED
    assert world.engine.cancel("r") is GenerationState.CANCELLED
    world.run()
    assert isinstance(finished(world, "r").error, Cancelled)
    assert world.engine.cancel("r") is GenerationState.CANCELLED
    world.submit(make_request("done"))
    world.run()
    assert world.engine.cancel("done") is GenerationState.COMPLETED
    with pytest.raises(NotFound):
        world.engine.cancel("never")
    world.check_balance()


def test_a_cancel_of_what_fails_already_says_so() -> None:
    """Between a failure and the turn in which the device leaves it, a cancel is told how the generation will end."""
    world = World()
    ticket = world.submit(make_request("r"))
    world.engine.turn()
    ticket.close(DeadlineExceeded("the deadline of the call passed"))
    assert world.engine.cancel("r") is GenerationState.FAILED
    world.run()
    assert world.engine.report("r").state is GenerationState.FAILED


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Cancelled("by its caller"), GenerationState.CANCELLED),
        (DeadlineExceeded("too late"), GenerationState.FAILED),
        (Unavailable(UnavailableReason.DRAINING, "the server is shutting down"), GenerationState.FAILED),
    ],
)
def test_what_is_being_stopped_is_told_as_it_will_end(error: Exception, state: GenerationState) -> None:
    """From the moment at which it is stopped, though the device has not left it: state, why, where and when."""
    world = World()
    ticket = world.submit(make_request("r"))
    for _ in range(5):
        world.engine.turn()
    before = world.engine.report("r")
    ticket.close(error)
    stopping = world.engine.report("r")
    assert (before.state, before.finished.error, before.ended) == (GenerationState.RUNNING, None, None)
    assert (stopping.state, stopping.stage) == (state, before.stage)
    assert (type(stopping.finished.error), str(stopping.finished.error)) == (type(error), str(error))
    assert stopping.ended is not None
    world.run()
    ended = world.engine.report("r")
    assert (ended.state, ended.stage, ended.ended) == (state, stopping.stage, stopping.ended)


def test_an_id_that_is_being_stopped_is_refused_as_such() -> None:
    """Whoever was told that it is cancelled is not told that it runs; the id is free once the device has left it."""
    world = World()
    world.submit(make_request("r"))
    world.engine.turn()
    with pytest.raises(AlreadyExists, match="is running"):
        world.submit(make_request("r"))
    world.engine.cancel("r")
    with pytest.raises(AlreadyExists, match="is being stopped"):
        world.submit(make_request("r"))
    world.engine.turn()
    world.submit(make_request("r"))
    world.run()
    assert world.referee.outcomes == {"r": [Outcome.CANCELLED, Outcome.OK]}


def test_cancel_reaches_a_generation_that_is_being_sent() -> None:
    """The caller's hold learns of it, and the generation does not count as delivered."""
    world = World()
    ticket = world.submit(make_request("r"))
    while not any(isinstance(e.event, Finished) for e in world.seen["r"]):
        world.engine.turn()
        world.seen["r"] += ticket.take()
    assert ticket.stopped is None
    world.engine.cancel("r")
    assert isinstance(ticket.stopped, Cancelled)
    ticket.close()
    del world.tickets["r"]
    assert world.referee.outcomes == {"r": [Outcome.CANCELLED]}
