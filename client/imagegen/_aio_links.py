"""Which server the asyncio client talks to: one at a time, and those that it left for what they have begun."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from imagegen._channel import UNARY_TIMEOUT, Connection
from imagegen._elsewhere import CHECK_SECONDS, MOST_LINKS
from imagegen._health import HEALTH_METHOD, SERVICE, decode_check, encode_check
from imagegen._status import error_from_rpc
from imagegen.errors import GenerationCancelledError, ImageGenError, NotFoundError
from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub

if TYPE_CHECKING:  # the alias exists in the stubs only
    from imagegen.v1.imagegen_pb2_grpc import ImageGenAsyncStub

_Response = TypeVar("_Response")


class AsyncLink:
    """A channel, and so a connection to one server."""

    def __init__(self, connection: Connection) -> None:
        """Makes the channel, which binds itself to the running loop and connects with the first call."""
        self.target = connection.target
        self._channel: grpc.aio.Channel
        if connection.credentials is None:
            self._channel = grpc.aio.insecure_channel(connection.target, connection.options)
        else:
            self._channel = grpc.aio.secure_channel(connection.target, connection.credentials, connection.options)
        self.stub: ImageGenAsyncStub = ImageGenStub(self._channel)
        self.check = self._channel.unary_unary(
            HEALTH_METHOD, request_serializer=encode_check, response_deserializer=decode_check
        )
        """Asks whether the server takes requests."""
        self.gone = False
        """Whether a server that was left does not answer any more."""

    async def close(self) -> None:
        """Closes the channel and cancels what still runs on it."""
        await self._channel.close(None)


class AsyncLinks:
    """The channels of one client, which belong to the event loop of its first call."""

    def __init__(self, connection: Connection) -> None:
        """Prepares the first channel."""
        self._connection = connection
        self._links: list[AsyncLink] = []
        """The one in use, and those to servers that were left, newest first; none before the first call."""
        self._moving = asyncio.Lock()
        self._closed = False

    @property
    def current(self) -> AsyncLink:
        """The link of what begins now. Raises RuntimeError after `close`."""
        self.require_open()
        if not self._links:
            self._links = [AsyncLink(self._connection)]
        return self._links[0]

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, _Response],
        request: object,
        request_id: str = "",
        seconds: float | None = UNARY_TIMEOUT,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> _Response:
        """Returns the answer of a method that gives one; errors name `request_id`."""
        self.require_open()
        with errors_of(request_id):
            return await method(request, timeout=seconds, metadata=(*self._connection.metadata(), *metadata))

    async def holder(self, request_id: str) -> AsyncLink:
        """Returns the link to the server that has a generation: one that was left, if only that knows it."""
        current, *left = (self.current, *self._links[1:])
        left = [link for link in left if not link.gone]
        for link in (current, *left) if left else ():
            try:
                await self.generation(link, request_id)
            except NotFoundError:
                continue
            except ImageGenError:
                if link is current:
                    break
                link.gone = True
            else:
                return link
        return current

    async def generation(self, link: AsyncLink, request_id: str) -> pb.GetGenerationResponse:
        """Returns what a server knows of a generation."""
        return await self.call(link.stub.GetGeneration, pb.GetGenerationRequest(request_id=request_id), request_id)

    async def leave(self, left: AsyncLink) -> bool:
        """Goes to another server for what begins from now on; returns whether there is one that serves."""
        async with self._moving:
            if self.current is not left:
                return True  # another task has been here
            for connection in self._connection.others(left.target):
                self.require_open()
                link = AsyncLink(connection)
                if await self._serves(link):
                    await self._use(link)
                    return True
                await link.close()
        return False

    async def close(self) -> None:
        """Closes the channel and cancels what still runs on it. May be called more than once."""
        self._closed = True
        for link in tuple(self._links):
            await link.close()

    def require_open(self) -> None:
        """Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the client is closed")

    async def _use(self, link: AsyncLink) -> None:
        self._links = [link, *self._links]
        while len(self._links) > MOST_LINKS:
            await self._links.pop().close()
        if self._closed:
            await link.close()

    async def _serves(self, link: AsyncLink) -> bool:
        try:
            return bool(await self.call(link.check, SERVICE, seconds=CHECK_SECONDS))
        except ImageGenError:
            return False


@contextmanager
def errors_of(request_id: str) -> Iterator[None]:
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
