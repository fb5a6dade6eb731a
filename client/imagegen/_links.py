"""Which server the synchronous client talks to: one at a time, and those that it left for what they have begun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import grpc

from imagegen._channel import UNARY_TIMEOUT, Connection
from imagegen._elsewhere import CHECK_SECONDS, MOST_LINKS
from imagegen._health import HEALTH_METHOD, SERVICE, decode_check, encode_check
from imagegen._status import error_from_rpc
from imagegen.errors import ImageGenError, NotFoundError
from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Link:
    """A channel, and so a connection to one server."""

    def __init__(self, connection: Connection) -> None:
        """Makes the channel, which connects with the first call."""
        self.target = connection.target
        if connection.credentials is None:
            self._channel = grpc.insecure_channel(connection.target, connection.options)
        else:
            self._channel = grpc.secure_channel(connection.target, connection.credentials, connection.options)
        self.stub = ImageGenStub(self._channel)
        self.check = self._channel.unary_unary(
            HEALTH_METHOD, request_serializer=encode_check, response_deserializer=decode_check
        )
        """Asks whether the server takes requests."""
        self.gone = False
        """Whether a server that was left does not answer any more."""
        self.close: Callable[[], None] = self._channel.close


class Links:
    """The channels of one client. Safe to share between threads."""

    def __init__(self, connection: Connection) -> None:
        """Makes the first channel."""
        self._connection = connection
        self._links = [Link(connection)]
        """The one in use, and those to servers that were left, newest first."""
        self._moving = threading.Lock()
        self._closed = False

    @property
    def current(self) -> Link:
        """The link of what begins now."""
        return self._links[0]

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        request_id: str = "",
        seconds: float | None = UNARY_TIMEOUT,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> _Response:
        """Returns the answer of a method that gives one; errors name `request_id`."""
        self.require_open()
        try:
            return method(request, timeout=seconds, metadata=(*self._connection.metadata(), *metadata))
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id) from error

    def holder(self, request_id: str) -> Link:
        """Returns the link to the server that has a generation: one that was left, if only that knows it."""
        current, *left = self._links
        left = [link for link in left if not link.gone]
        for link in (current, *left) if left else ():
            try:
                self.generation(link, request_id)
            except NotFoundError:
                continue
            except ImageGenError:
                if link is current:
                    break
                link.gone = True
            else:
                return link
        return current

    def generation(self, link: Link, request_id: str) -> pb.GetGenerationResponse:
        """Returns what a server knows of a generation."""
        return self.call(link.stub.GetGeneration, pb.GetGenerationRequest(request_id=request_id), request_id)

    def leave(self, left: Link) -> bool:
        """Goes to another server for what begins from now on; returns whether there is one that serves."""
        with self._moving:
            if self.current is not left:
                return True  # another thread has been here
            for connection in self._connection.others(left.target):
                self.require_open()
                link = Link(connection)
                if self._serves(link):
                    self._use(link)
                    return True
                link.close()
        return False

    def close(self) -> None:
        """Closes the channel and cancels what still runs on it. May be called more than once."""
        self._closed = True
        for link in tuple(self._links):
            link.close()

    def require_open(self) -> None:
        """Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the client is closed")

    def _use(self, link: Link) -> None:
        self._links = [link, *self._links]
        while len(self._links) > MOST_LINKS:
            self._links.pop().close()
        if self._closed:
            link.close()

    def _serves(self, link: Link) -> bool:
        try:
            return bool(self.call(link.check, SERVICE, seconds=CHECK_SECONDS))
        except ImageGenError:
            return False
