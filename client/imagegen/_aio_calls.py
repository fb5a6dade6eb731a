"""How the asyncio client makes its calls: the channel, what each call carries, reading, and going on after a loss.

Speaks in messages of the contract and in the events that they tell; what users call is in `_aio`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from imagegen import _channel, _convert, types
from imagegen._health import HEALTH_METHOD, NOT_SERVING_CODES, SERVICE, decode_check, encode_check
from imagegen._reattach import Reattachment, lasts
from imagegen._status import error_from_rpc
from imagegen._stream import GenerationFold
from imagegen.errors import (
    GenerationCancelledError,
    ImageGenError,
    NotFoundError,
    ServiceUnavailableError,
    UnreachableError,
)
from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub

if TYPE_CHECKING:  # the alias exists in the stubs only
    from imagegen.v1.imagegen_pb2_grpc import ImageGenAsyncStub

_Response = TypeVar("_Response")


class AsyncCalls:
    """The calls of one client on a channel of its own, which belongs to the event loop of the first.

    The methods and errors are those of `Calls`.
    """

    def __init__(
        self,
        target: str,
        *,
        metadata: Callable[[], tuple[tuple[str, str], ...]],
        options: list[tuple[str, str | int]],
        credentials: grpc.ChannelCredentials | None,
    ) -> None:
        """Prepares the channel. Arguments as for `Calls`."""
        self._target = target
        self._metadata = metadata
        self._options = options
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    def stub(self) -> ImageGenAsyncStub:
        """Returns what has the methods that `call` takes."""
        return ImageGenStub(self._connect())

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, _Response],
        request: object,
        request_id: str = "",
        seconds: float | None = _channel.UNARY_TIMEOUT,
    ) -> _Response:
        """Returns the answer of a method that gives one; errors name `request_id`."""
        with _errors_of(request_id):
            return await method(request, timeout=seconds, metadata=self._metadata())

    async def generation(self, request_id: str) -> pb.GetGenerationResponse:
        """Returns what the server knows of a generation."""
        request = pb.GetGenerationRequest(request_id=request_id)
        return await self.call(self.stub().GetGeneration, request, request_id)

    async def events(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[types.Event, None]:
        """Yields what happens in a generation, which begins with the first event that is asked for."""
        responses = self._responses(request, seconds)
        async with aclosing(_told(responses, GenerationFold(request.request_id))) as events:
            async for event in events:
                yield event

    async def fold(self, request: pb.GenerateImageRequest, seconds: float | None) -> GenerationFold:
        """Returns what a generation told, once its stream has ended."""
        fold = GenerationFold(request.request_id)
        async with aclosing(self._responses(request, seconds)) as responses:
            async for response in responses:
                fold.feed(response)
        return fold

    async def watched(
        self, request_id: str, after_sequence: int, seconds: float | None
    ) -> AsyncGenerator[types.Event, None]:
        """Yields what happened after an event of a generation, and what happens."""
        place = Reattachment(seconds, after_sequence)
        plan = await self._plan(request_id) if after_sequence else None
        responses = self._lasting(self._watch(request_id, place), request_id, place)
        async with aclosing(_told(responses, GenerationFold(request_id, plan))) as events:
            async for event in events:
                yield event

    async def _plan(self, request_id: str) -> types.GenerationPlan:
        """Returns what a generation executes; an empty plan where that is forgotten, as it may be before its events."""
        try:
            return _convert.plan((await self.generation(request_id)).plan)
        except NotFoundError:
            return _convert.plan(pb.GenerationPlan())

    async def healthy(self) -> bool:
        """Returns whether the service takes requests: False if it does not, or if nobody answers."""
        check = self._connect().unary_unary(
            HEALTH_METHOD, request_serializer=encode_check, response_deserializer=decode_check
        )
        try:
            return bool(await self.call(check, SERVICE))
        except ImageGenError as error:
            if error.code in NOT_SERVING_CODES:
                return False
            raise

    async def close(self) -> None:
        """Closes the channel and cancels what still runs on it. May be called more than once."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close(None)

    def _connect(self) -> grpc.aio.Channel:
        """Returns the channel, made on first use: it binds itself to the running loop."""
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, self._options)
            else:
                self._channel = grpc.aio.secure_channel(self._target, self._credentials, self._options)
        return self._channel

    def _responses(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        """Yields the messages of a generation; through lost connections if it outlives them."""
        messages = self._generated(request, seconds)
        if lasts(request):
            return self._lasting(messages, request.request_id, Reattachment(seconds))
        return messages

    async def _generated(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        call = self.stub().GenerateImage(request, timeout=seconds, metadata=self._metadata())
        async with aclosing(_read(call, request.request_id)) as responses:
            async for response in responses:
                yield response

    async def _watch(self, request_id: str, place: Reattachment) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        request = pb.WatchGenerationRequest(request_id=request_id, after_sequence=place.last)
        call = self.stub().WatchGeneration(request, timeout=place.remaining(), metadata=self._metadata())
        async with aclosing(_read(call, request_id)) as answers:
            async for answer in answers:
                yield answer.response

    async def _lasting(
        self, messages: AsyncGenerator[pb.GenerateImageResponse, None], request_id: str, place: Reattachment
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        """Yields messages, and those that follow them after a lost connection."""
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
            messages = self._watch(request_id, place)


async def _read(call: grpc.aio.UnaryStreamCall[Any, _Response], request_id: str) -> AsyncGenerator[_Response, None]:
    """Yields what a call brings, and ends it whatever happens."""
    try:
        with _errors_of(request_id):
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


@contextmanager
def _errors_of(request_id: str) -> Iterator[None]:
    """Raises what a call ends with as the client's own errors.

    grpc.aio raises asyncio.CancelledError where the task is cancelled and where the client was closed. Only the first
    may reach the caller: a task that nobody cancelled must not end as if somebody had.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error, request_id) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise GenerationCancelledError(
            "the client was closed", code=grpc.StatusCode.CANCELLED, request_id=request_id
        ) from None
