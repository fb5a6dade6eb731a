"""Cancelling, and what has been delivered by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from imagegen_server.core import EncodedImage, GenerationRequest, GenerationState, Job, Outcome, Pixels, Stage
from imagegen_server.engine import Finished, ImageReady, StageCompleted
from imagegen_server.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    NotFound,
    Unavailable,
    UnavailableReason,
)
from support.ends import finished
from support.executors import Later
from support.simulation import World, encode, make_request

DEVICE = (Stage.TEXT_ENCODE, Stage.BASE, Stage.REFINER, Stage.VAE_DECODE)


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


def test_a_cancel_is_of_its_tenants_own() -> None:
    """Also of what has ended; an id of somebody else's is one that was never used."""
    world = World()
    world.submit(make_request("r", tenant="alice"))
    for _ in range(2):
        with pytest.raises(NotFound):
            world.engine.cancel("r", tenant="bob")
        assert world.engine.cancel("r", tenant="alice") is GenerationState.CANCELLED
        world.run()


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
    assert ticket.take() == [], "the end is told once"
    ticket.close()
    del world.tickets["r"]
    assert world.referee.outcomes == {"r": [Outcome.CANCELLED]}


@pytest.mark.parametrize("stage", DEVICE)
def test_what_is_cancelled_during_an_evaluation_gets_nothing_of_it(stage: Stage) -> None:
    """Not even where it was the last: the turn that follows ends the generation, and no stage or image is told."""

    def seconds(running: Stage, jobs: Sequence[Job]) -> float:
        if running is stage:
            world.engine.cancel("r")
        return 0.01

    world = World(seconds=seconds)
    world.submit(make_request("r", num_inference_steps=1, refiner_steps=1))
    world.run()
    world.check_balance()
    assert world.referee.outcomes == {"r": [Outcome.CANCELLED]}
    completed = [e.event.stage for e in world.seen["r"] if isinstance(e.event, StageCompleted)]
    assert completed == [Stage.QUEUED, *DEVICE[: DEVICE.index(stage)]]
    assert world.referee.ends["r", stage, Outcome.CANCELLED] == 1


def test_the_sending_of_an_image_ends_as_it_went() -> None:
    """Well, or cancelled by somebody else."""
    world = World()
    ticket = world.submit(make_request("r"))
    while world.engine.turn():
        pass
    with ticket.sending(0):
        pass

    def cut() -> None:
        with ticket.sending(0):
            world.engine.cancel("r")
            ticket.delivered()

    with pytest.raises(Cancelled):
        cut()
    assert [world.referee.ends["r", Stage.SEND, outcome] for outcome in (Outcome.OK, Outcome.CANCELLED)] == [1, 1]


def test_how_long_a_cancel_took_is_told() -> None:
    """From when it was asked for, not from the beginning."""
    world = World()
    world.submit(make_request("r"))
    for _ in range(5):
        world.engine.turn()
    world.engine.cancel("r")
    world.clock.sleep(0.3)
    world.run()
    assert world.referee.cancel_latencies == [pytest.approx(0.3)]


def test_a_caller_that_leaves_without_a_word_cancels() -> None:
    """What nobody waits for is not delivered, whatever its caller forgot to say."""
    world = World()
    ticket = world.submit(make_request("r"))
    for _ in range(5):
        world.engine.turn()
    ticket.close()
    world.run()
    world.check_balance()
    assert world.referee.outcomes == {"r": [Outcome.CANCELLED]}


def test_no_file_is_made_of_what_has_ended() -> None:
    """An image that waits for an encoder when it is cancelled is left alone, and nothing follows the end."""
    made: list[int] = []

    def counted(pixels: Pixels, request: GenerationRequest, image_index: int, *, refined: bool) -> EncodedImage:
        made.append(image_index)
        return encode(pixels, request, image_index, refined=refined)

    later = Later()
    world = World(encode=counted, encoders=later)
    world.submit(make_request("r"))
    while world.engine.turn():
        pass
    assert world.engine.report("r").stage is Stage.IMAGE_ENCODE
    world.engine.cancel("r")
    later.run()
    world.run()
    world.check_balance()
    assert made == []


def test_a_file_that_is_made_when_its_generation_is_cancelled_is_not_told() -> None:
    """Nothing follows the end."""

    def cancelling(pixels: Pixels, request: GenerationRequest, image_index: int, *, refined: bool) -> EncodedImage:
        world.engine.cancel("r")
        return encode(pixels, request, image_index, refined=refined)

    world = World(encode=cancelling)
    world.submit(make_request("r"))
    world.run()
    world.check_balance()
    assert not any(isinstance(e.event, ImageReady) for e in world.seen["r"])


@dataclass
class Waiter:
    """Somebody who asks for what is being stopped once more."""

    world: World
    heard: list[bool] = field(default_factory=list)

    def waits(self, fingerprint: bytes = b"") -> bool:
        """Asks to hear of the end."""
        return self.world.engine.after_stop(make_request("r"), fingerprint=fingerprint, on_ended=self.heard.append)


def test_a_second_attempt_waits_for_the_end_of_one_that_is_being_stopped() -> None:
    """Not while the first runs, nor with another body, nor once it has ended."""
    world = World()
    waiter = Waiter(world)
    ticket = world.submit(make_request("r"))
    world.engine.turn()
    assert not waiter.waits()
    ticket.close(Cancelled("its connection broke"))
    assert not waiter.waits(b"another body")
    assert waiter.waits()
    assert waiter.heard == []
    world.engine.turn()
    assert waiter.heard == [False]
    assert not waiter.waits()


def waiting_for_the_end(error: Exception) -> Waiter:
    """Returns who waits for a generation whose call has ended with an error."""
    world = World()
    waiter = Waiter(world)
    ticket = world.submit(make_request("r"))
    world.engine.turn()
    ticket.close(error)
    assert waiter.waits()
    return waiter


def test_a_second_attempt_hears_of_a_cancel() -> None:
    """Of one that comes while it waits; after one it need not wait."""
    waiter = waiting_for_the_end(Cancelled("its connection broke"))
    waiter.world.engine.cancel("r")
    assert not waiter.waits()
    waiter.world.engine.turn()
    assert waiter.heard == [True]


def test_a_cancel_of_what_fails_keeps_no_second_attempt_back() -> None:
    """Whoever asked for it was told FAILED, not CANCELLED."""
    waiter = waiting_for_the_end(DeadlineExceeded("the deadline of the call passed"))
    assert waiter.world.engine.cancel("r") is GenerationState.FAILED
    waiter.world.engine.turn()
    assert waiter.heard == [False]
