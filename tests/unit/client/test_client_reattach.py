"""When a stream that broke is taken up again, and what a stream that begins in the middle means."""

from __future__ import annotations

import grpc
import pytest

from imagegen._convert import plan
from imagegen._details import ErrorDetails
from imagegen._reattach import LONGEST_PAUSE, MAX_FAILURES, Reattachment, lasts
from imagegen._stream import GenerationFold
from imagegen.errors import (
    GenerationLostError,
    NotFoundError,
    ProtocolError,
    ServiceUnavailableError,
    UnreachableError,
)
from imagegen.v1 import imagegen_pb2 as pb
from support import messages

LOST = UnreachableError("lost", code=grpc.StatusCode.UNAVAILABLE)
REQUEST = pb.GenerateImageRequest(request_id="id-1", prompt="a circle", seed=7, num_images=2)
PLAN = plan(messages.generation_plan(REQUEST))


def received(sequence: int) -> pb.GenerateImageResponse:
    """Returns a message."""
    return pb.GenerateImageResponse(sequence=sequence)


def test_what_ends_with_its_connection_is_not_taken_up() -> None:
    """Nor is a plan, which runs nothing."""
    lasting = pb.GenerateImageRequest(on_disconnect=pb.ON_DISCONNECT_CONTINUE)
    assert lasts(lasting)
    assert not lasts(pb.GenerateImageRequest(on_disconnect=pb.ON_DISCONNECT_STOP))
    assert not lasts(pb.GenerateImageRequest())
    lasting.validate_only = True
    assert not lasts(lasting)


def test_attempts_wait_longer_until_a_message_comes() -> None:
    """The pauses double up to a bound, begin anew with every message, and end after so many in a row."""
    place = Reattachment(None)
    place.received(received(4))
    pauses = [place.pause(LOST) for _ in range(MAX_FAILURES)]
    assert pauses[:3] == [0.2, 0.4, 0.8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    with pytest.raises(UnreachableError):
        place.pause(LOST)
    place.received(received(9))
    assert (place.pause(LOST), place.last, place.remaining()) == (0.2, 9, None)


def test_nothing_is_taken_up_that_never_began() -> None:
    """Before the server's headers nobody knows whether the generation exists; gRPC itself repeats such calls."""
    with pytest.raises(UnreachableError):
        Reattachment(None).pause(LOST)
    assert Reattachment(None, after_sequence=3).pause(LOST) == 0.2


def ended(*headers: tuple[str, str]) -> UnreachableError:
    """Returns the loss of a call of grpc.aio that had these headers, as far as it knows."""
    lost = UnreachableError("lost", code=grpc.StatusCode.UNAVAILABLE)
    lost.__cause__ = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(*headers), grpc.aio.Metadata(), "lost", "lost"
    )
    return lost


def test_what_may_have_begun_is_asked_for_once() -> None:
    """grpc.aio drops headers, so that their absence says nothing; those of something else say that it is not there."""
    place = Reattachment(None)
    assert place.pause(ended()) == 0.2
    with pytest.raises(UnreachableError) as caught:
        place.refused(UNKNOWN)
    assert type(caught.value) is UnreachableError
    with pytest.raises(UnreachableError):
        place.pause(ended())
    with pytest.raises(UnreachableError):
        Reattachment(None).pause(ended(("server", "a proxy")))
    begun = Reattachment(None)
    assert [begun.pause(ended()), begun.pause(ended(("x-request-id", "id-1"))), begun.pause(ended())] == [0.2, 0.4, 0.8]


def test_time_is_shared_by_all_attempts() -> None:
    """No pause goes beyond the end; the last call gets the little that is left."""
    place = Reattachment(0.1, after_sequence=1)
    with pytest.raises(UnreachableError):
        place.pause(LOST)
    remaining = Reattachment(1e-9, 1).remaining()
    assert remaining is not None
    assert 0 < remaining < 0.1


def test_the_time_of_the_call_bounds_the_attempts() -> None:
    """However many there are; only where it is endless their number does."""
    place = Reattachment(1e6, after_sequence=1)
    assert [place.pause(LOST) for _ in range(2 * MAX_FAILURES)][-1] == LONGEST_PAUSE


UNKNOWN = NotFoundError("no such generation", code=grpc.StatusCode.NOT_FOUND, request_id="id-1")
LOADING = ServiceUnavailableError("the server is loading", details=ErrorDetails(reason="LOADING"))
DRAINING = ServiceUnavailableError("the server is draining", details=ErrorDetails(reason="DRAINING"))


@pytest.mark.parametrize("refusal", [UNKNOWN, LOADING], ids=["unknown", "loading"])
def test_what_was_there_before_a_loss_and_is_not_after_it_is_lost(
    refusal: NotFoundError | ServiceUnavailableError,
) -> None:
    """A server that was started anew says only that it does not know the generation, or that it is loading."""
    place = Reattachment(None)
    place.received(received(4))
    place.refused(refusal)  # nothing was lost: it means what it says
    place.pause(LOST)
    with pytest.raises(GenerationLostError, match=r"\(lost\), and the server that answers now does not know") as caught:
        place.refused(refusal)
    assert (caught.value.code, caught.value.request_id) == (grpc.StatusCode.UNAVAILABLE, refusal.request_id)
    assert caught.value.__cause__ is refusal


def test_other_refusals_after_a_loss_mean_what_they_say() -> None:
    """Such as a generation that ends because its server drains."""
    place = Reattachment(None, after_sequence=4)
    place.pause(LOST)
    place.refused(DRAINING)


def test_a_stream_may_begin_in_the_middle() -> None:
    """With the plan, what came before is not missed: rests of an image are skipped, later images are whole."""
    pictures = [messages.picture(900, index) for index in range(2)]
    fold = GenerationFold("id-1", PLAN)
    stream = [
        *list(messages.chunks(REQUEST, pictures[0], 0, 400))[1:],
        messages.header(REQUEST, pictures[1], 1),
        *messages.chunks(REQUEST, pictures[1], 1, 400),
        messages.completed(REQUEST, pictures),
    ]
    told = [type(event).__name__ for event in map(fold.feed, stream) if event is not None]
    assert told == ["ImageHeader", "ImageReceived"]
    (image,) = fold.finish().images
    assert (image.image_index, image.data, image.plan) == (1, pictures[1], PLAN)


def test_a_stream_may_begin_after_its_end() -> None:
    """Then nothing comes, which is no break; what has begun has to end."""
    assert GenerationFold("id-1", PLAN).nothing_followed
    assert not GenerationFold("id-1").nothing_followed
    fold = GenerationFold("id-1", PLAN)
    fold.feed(messages.header(REQUEST, b"x" * 9, 1))
    assert not fold.nothing_followed


def test_what_arrives_must_still_be_what_was_announced() -> None:
    """A partial stream is checked as far as it goes."""
    for last in (messages.completed(REQUEST, [b"other", b"others"]), messages.completed(REQUEST, [])):
        fold = GenerationFold("id-1", PLAN)
        for response in (messages.header(REQUEST, b"x" * 9, 1), *messages.chunks(REQUEST, b"x" * 9, 1)):
            fold.feed(response)
        with pytest.raises(ProtocolError, match="not those that arrived"):
            fold.feed(last)
    fold = GenerationFold("id-1", PLAN)
    fold.feed(messages.header(REQUEST, b"x" * 9, 1))
    with pytest.raises(ProtocolError, match="after 0 of 2 images"):
        fold.feed(messages.completed(REQUEST, [b"x", b"x" * 9]))
    with pytest.raises(ProtocolError, match="ended before completed"):
        GenerationFold("id-1", PLAN).finish()
