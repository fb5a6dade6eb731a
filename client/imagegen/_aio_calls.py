"""How the asyncio client makes its calls: the channel, what each call carries, reading, and going on after a loss.

Speaks in messages of the contract and in the events that they tell; what users call is in `_aio`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from imagegen import _convert, types
from imagegen._aio_links import AsyncLink, AsyncLinks, errors_of
from imagegen._channel import Connection
from imagegen._elsewhere import GOES_ELSEWHERE, Repeats, sends_elsewhere
from imagegen._health import NOT_SERVING_CODES, SERVICE
from imagegen._reattach import Reattachment, lasts
from imagegen._stream import GenerationFold
from imagegen.errors import ImageGenError, NotFoundError, ServiceUnavailableError, UnreachableError
from imagegen.v1 import imagegen_pb2 as pb

if TYPE_CHECKING:  # the alias exists in the stubs only
    from imagegen.v1.imagegen_pb2_grpc import ImageGenAsyncStub

_Response = TypeVar("_Response")


class AsyncCalls:
    """The calls of one client, to one server at a time, which belong to the event loop of the first.

    The methods and errors are those of `Calls`.
    """

    def __init__(self, connection: Connection) -> None:
        """Prepares the channel."""
        self._metadata = connection.metadata
        self._max_attempts = connection.max_attempts
        self._links = AsyncLinks(connection)
        self.call = self._links.call
        self.close = self._links.close

    @property
    def stub(self) -> ImageGenAsyncStub:
        """Has the methods that `call` takes."""
        return self._links.current.stub

    async def render(self, request: pb.RenderImageRequest, seconds: float | None) -> pb.RenderImageResponse:
        """Returns the result of a generation in one answer."""
        request_id = request.generation.request_id
        return await self._repeated(
            lambda link, left: self.call(link.stub.RenderImage, request, request_id, left, GOES_ELSEWHERE), seconds
        )

    async def generation(self, request_id: str) -> pb.GetGenerationResponse:
        """Returns what the server that has a generation knows of it."""
        return await self._links.generation(await self._links.holder(request_id), request_id)

    async def cancel(self, request_id: str) -> pb.CancelGenerationResponse:
        """Stops a generation on the server that has it."""
        link = await self._links.holder(request_id)
        request = pb.CancelGenerationRequest(request_id=request_id)
        return await self.call(link.stub.CancelGeneration, request, request_id)

    async def events(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[types.Event, None]:
        """Yields what happens in a generation, which begins with the first event that is asked for."""
        repeats = Repeats(seconds, self._max_attempts)
        while True:
            link, told = self._links.current, False
            responses = self._responses(link, request, repeats.remaining())
            try:
                async with aclosing(_told(responses, GenerationFold(request.request_id))) as events:
                    async for event in events:
                        told = True
                        yield event
                return
            except ServiceUnavailableError as error:
                if told or not await self._again(link, error, repeats):
                    raise

    async def fold(self, request: pb.GenerateImageRequest, seconds: float | None) -> GenerationFold:
        """Returns what a generation told, once its stream has ended."""
        return await self._repeated(lambda link, left: self._fold(link, request, left), seconds)

    async def watched(
        self, request_id: str, after_sequence: int, seconds: float | None
    ) -> AsyncGenerator[types.Event, None]:
        """Yields what happened after an event of a generation, and what happens."""
        place = Reattachment(seconds, after_sequence)
        link = await self._links.holder(request_id)
        plan = await self._plan(link, request_id) if after_sequence else None
        responses = self._lasting(link, self._watch(link, request_id, place), request_id, place)
        async with aclosing(_told(responses, GenerationFold(request_id, plan))) as events:
            async for event in events:
                yield event

    async def healthy(self) -> bool:
        """Returns whether the service takes requests: False if no server that it finds does, or if nobody answers."""
        link = self._links.current
        try:
            return bool(await self.call(link.check, SERVICE)) or await self._links.leave(link)
        except ImageGenError as error:
            if error.code in NOT_SERVING_CODES:
                return False
            raise

    async def _repeated(
        self, attempt: Callable[[AsyncLink, float | None], Awaitable[_Response]], seconds: float | None
    ) -> _Response:
        """Returns what an attempt returns that has a link and some seconds; made again where another server serves."""
        repeats = Repeats(seconds, self._max_attempts)
        while True:
            link = self._links.current
            try:
                return await attempt(link, repeats.remaining())
            except ServiceUnavailableError as error:
                if not await self._again(link, error, repeats):
                    raise

    async def _again(self, link: AsyncLink, error: ServiceUnavailableError, repeats: Repeats) -> bool:
        """Returns whether a call that ended so may be made again, which then is on another link."""
        return sends_elsewhere(error) and await self._links.leave(link) and repeats.another()

    async def _plan(self, link: AsyncLink, request_id: str) -> types.GenerationPlan:
        """Returns what a generation executes; an empty plan where that is forgotten, as it may be before its events."""
        try:
            return _convert.plan((await self._links.generation(link, request_id)).plan)
        except NotFoundError:
            return _convert.plan(pb.GenerationPlan())

    async def _fold(self, link: AsyncLink, request: pb.GenerateImageRequest, seconds: float | None) -> GenerationFold:
        fold = GenerationFold(request.request_id)
        async with aclosing(self._responses(link, request, seconds)) as responses:
            async for response in responses:
                fold.feed(response)
        return fold

    def _responses(
        self, link: AsyncLink, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        """Yields the messages of a generation; through lost connections if it outlives them."""
        messages = self._generated(link, request, seconds)
        if lasts(request):
            return self._lasting(link, messages, request.request_id, Reattachment(seconds))
        return messages

    async def _generated(
        self, link: AsyncLink, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        self._links.require_open()
        call = link.stub.GenerateImage(request, timeout=seconds, metadata=(*self._metadata(), *GOES_ELSEWHERE))
        async with aclosing(_read(call, request.request_id)) as responses:
            async for response in responses:
                yield response

    async def _watch(
        self, link: AsyncLink, request_id: str, place: Reattachment
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        self._links.require_open()
        request = pb.WatchGenerationRequest(request_id=request_id, after_sequence=place.last)
        call = link.stub.WatchGeneration(request, timeout=place.remaining(), metadata=self._metadata())
        async with aclosing(_read(call, request_id)) as answers:
            async for answer in answers:
                yield answer.response

    async def _lasting(
        self,
        link: AsyncLink,
        messages: AsyncGenerator[pb.GenerateImageResponse, None],
        request_id: str,
        place: Reattachment,
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        """Yields messages, and those that follow them after a lost connection, from the same server."""
        while True:
            try:
                async with aclosing(messages):
                    async for response in messages:
                        place.received(response)
                        yield response
                return
            except UnreachableError as error:
                pause = place.pause(error)
            except (NotFoundError, ServiceUnavailableError) as error:
                place.refused(error)
                raise
            await asyncio.sleep(pause)
            messages = self._watch(link, request_id, place)


async def _read(call: grpc.aio.UnaryStreamCall[Any, _Response], request_id: str) -> AsyncGenerator[_Response, None]:
    """Yields what a call brings, and ends it whatever happens."""
    try:
        with errors_of(request_id):
            async for response in call:
                yield response
    finally:
        # Stops the server, unless the stream has ended.
        call.cancel()


async def _told(
    messages: AsyncGenerator[pb.GenerateImageResponse, None], fold: GenerationFold
) -> AsyncGenerator[types.Event, None]:
    """Yields the events that messages tell, and closes them whatever happens."""
    async with aclosing(messages) as responses:
        async for response in responses:
            event = fold.feed(response)
            if event is not None:
                yield event
    if not fold.nothing_followed:
        yield fold.finish()
