"""Both clients, when the connection breaks after a generation has begun and before its first event arrives.

But for one test they make one attempt: where gRPC learns of a call's end before it looks for the headers, it takes the
call for one that never began, and repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

import grpc
import pytest

import imagegen
from imagegen import errors, types
from imagegen.v1 import imagegen_pb2 as pb
from support import messages
from support.scripted_service import ScriptedService, error_info, refuse, serving


class Breaking(ScriptedService):
    """Ends calls as a broken connection does, after the headers or before them, until it was asked `breaks` times."""

    def __init__(self) -> None:
        super().__init__()
        self.script = self._begin
        self.headers = True
        self.breaks = 1
        self.lost = False
        """Whether the generation is gone when the caller comes back."""
        self.watched: list[pb.WatchGenerationRequest] = []

    def WatchGeneration(  # noqa: N802 (the contract's name)
        self, request: pb.WatchGenerationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchGenerationResponse]:
        """Sends the events of a generation."""
        self.watched.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        if self.lost:
            refuse(context, grpc.StatusCode.NOT_FOUND, "no such generation", error_info("GENERATION_NOT_FOUND"))
        self._cut(request.request_id, context)
        for response in messages.generation(pb.GenerateImageRequest(request_id=request.request_id, prompt="a")):
            yield pb.WatchGenerationResponse(response=response)

    def _begin(
        self, request: pb.GenerateImageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateImageResponse]:
        self._cut(request.request_id, context)
        yield from messages.generation(request)

    def _cut(self, request_id: str, context: grpc.ServicerContext) -> None:
        if not self.breaks:
            return
        self.breaks -= 1
        if self.headers:
            context.send_initial_metadata((("x-request-id", request_id),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")  # without ErrorInfo: the transport's own words


@pytest.fixture
def service() -> Iterator[Breaking]:
    """A running server."""
    with serving(service := Breaking()):
        yield service


Client = partial(imagegen.Client, max_attempts=1)
AsyncClient = partial(imagegen.AsyncClient, max_attempts=1)
CONTINUE = types.OnDisconnect.CONTINUE


def test_a_generation_that_has_begun_is_taken_up_from_its_first_event(service: Breaking) -> None:
    """It runs, and may be found by its id: nobody asks for another."""
    with Client(service.target) as client:
        image = client.generate_image("a", on_disconnect=CONTINUE, request_id="mine", timeout=100)
    assert (image.request_id, image.data) == ("mine", messages.picture())
    assert len(service.requests) == 1
    assert all(left is not None and 0 < left < 150 for left in service.remaining), "of one time for both calls"
    assert [(request.request_id, request.after_sequence) for request in service.watched] == [("mine", 0)]


async def test_a_generation_that_has_begun_is_taken_up_from_its_first_event_under_asyncio(service: Breaking) -> None:
    """The same."""
    async with AsyncClient(service.target) as client:
        image = await client.generate_image("a", on_disconnect=CONTINUE, request_id="mine", timeout=100)
    assert (image.request_id, image.data) == ("mine", messages.picture())
    assert len(service.requests) == len(service.watched) == 1
    assert all(left is not None and 0 < left < 150 for left in service.remaining)


async def test_it_arrives_where_grpc_repeats_the_call_as_well(service: Breaking) -> None:
    """By whichever way: the same call attaches to the generation."""
    with imagegen.Client(service.target) as blocking:
        image = blocking.generate_image("a", on_disconnect=CONTINUE, request_id="mine")
    service.breaks = 1
    async with imagegen.AsyncClient(service.target) as client:
        assert await client.generate_image("a", on_disconnect=CONTINUE, request_id="mine") == image
    assert {request.request_id for request in service.requests} == {"mine"}


def test_watching_goes_on_as_well(service: Breaking) -> None:
    """From the start, when nothing had arrived."""
    service.breaks = 2
    with Client(service.target) as client, closing(client.watch("mine")) as events:
        assert isinstance(list(events)[-1], types.Completed)
    assert len(service.watched) == 3


async def test_watching_goes_on_as_well_under_asyncio(service: Breaking) -> None:
    """The same."""
    async with AsyncClient(service.target) as client:
        events = [event async for event in client.watch("mine")]
    assert isinstance(events[-1], types.Completed)
    assert len(service.watched) == 2


async def test_watching_says_who_asks_and_how_long_it_may_take(service: Breaking) -> None:
    """As every call does: the server would not show a generation to anybody else."""
    service.breaks = 0
    with Client(service.target, api_key="mine") as client:
        list(client.watch("mine", timeout=100))
    async with AsyncClient(service.target, api_key="mine") as other:
        assert [event async for event in other.watch("mine", timeout=100)]
    assert [call["x-api-key"] for call in service.metadata] == ["mine"] * 2
    assert [left is not None and 0 < left < 150 for left in service.remaining] == [True] * 2


def test_what_is_gone_was_lost(service: Breaking) -> None:
    """A server that knows the generation no more leaves the loss to be told."""
    service.lost = True
    with Client(service.target) as client:
        with pytest.raises(errors.UnreachableError, match="Socket closed"):
            client.generate_image("a", on_disconnect=CONTINUE)
        with pytest.raises(errors.NotFoundError):
            list(client.watch("never"))


async def test_what_is_gone_was_lost_under_asyncio(service: Breaking) -> None:
    """The same."""
    service.lost = True
    async with AsyncClient(service.target) as client:
        with pytest.raises(errors.UnreachableError, match="Socket closed"):
            await client.generate_image("a", on_disconnect=CONTINUE)
        with pytest.raises(errors.NotFoundError):
            [event async for event in client.watch("never")]


@pytest.mark.parametrize("on_disconnect", [CONTINUE, None])
def test_without_headers_or_a_request_to_go_on_a_break_is_an_error(
    service: Breaking, on_disconnect: types.OnDisconnect | None
) -> None:
    """Nobody knows of a generation then, or there is none any more."""
    service.headers = on_disconnect is None
    with Client(service.target) as client, pytest.raises(errors.UnreachableError):
        client.generate_image("a", on_disconnect=on_disconnect)
    assert service.watched == []


@pytest.mark.parametrize(("breaks", "lost"), [(1, False), (1, True), (2, False)])
async def test_without_headers_asyncio_asks_once(service: Breaking, breaks: int, lost: bool) -> None:
    """Headers may have come without its being told. If there is no generation, or no answer, the loss is raised."""
    service.headers, service.breaks, service.lost = False, breaks, lost
    async with AsyncClient(service.target) as client:
        if lost or breaks > 1:
            with pytest.raises(errors.UnreachableError, match=r"^Socket closed$"):
                await client.generate_image("a", on_disconnect=CONTINUE)
        else:
            assert (await client.generate_image("a", on_disconnect=CONTINUE)).data == messages.picture()
        assert len(service.watched) == 1
        service.breaks = 1
        with pytest.raises(errors.UnreachableError, match=r"^Socket closed$"):
            await client.generate_image("a")  # it ended with its call
    assert len(service.watched) == 1
