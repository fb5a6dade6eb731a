"""How the synchronous client makes its calls: the channel, what each call carries, reading, and going on after a loss.

Speaks in messages of the contract and in the events that they tell; what users call is in `_client`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, TypeVar

import grpc

from imagegen import _channel, _convert, types
from imagegen._health import HEALTH_METHOD, NOT_SERVING_CODES, SERVICE, decode_check, encode_check
from imagegen._reattach import Reattachment, lasts
from imagegen._status import error_from_rpc
from imagegen._stream import GenerationFold
from imagegen.errors import ImageGenError, NotFoundError, ServiceUnavailableError, UnreachableError
from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Calls:
    """The calls of one client on a channel of its own. Safe to share between threads.

    Every call raises `errors.ImageGenError` for what goes wrong on the way or on the server, and RuntimeError after
    `close`.
    """

    def __init__(
        self,
        target: str,
        *,
        metadata: Callable[[], tuple[tuple[str, str], ...]],
        options: list[tuple[str, str | int]],
        credentials: grpc.ChannelCredentials | None,
    ) -> None:
        """Makes the channel, which connects with the first call.

        `metadata` is asked for what accompanies a call at the beginning of each. Without `credentials` the connection
        is plain text.
        """
        self._metadata = metadata
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options)
        self.stub = ImageGenStub(self._channel)
        """Has the methods that `call` takes."""
        self._check_health = self._channel.unary_unary(
            HEALTH_METHOD, request_serializer=encode_check, response_deserializer=decode_check
        )
        self._closed = False

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        request_id: str = "",
        seconds: float | None = _channel.UNARY_TIMEOUT,
    ) -> _Response:
        """Returns the answer of a method that gives one; errors name `request_id`."""
        self._require_open()
        try:
            return method(request, timeout=seconds, metadata=self._metadata())
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id) from error

    def generation(self, request_id: str) -> pb.GetGenerationResponse:
        """Returns what the server knows of a generation."""
        return self.call(self.stub.GetGeneration, pb.GetGenerationRequest(request_id=request_id), request_id)

    def events(self, request: pb.GenerateImageRequest, seconds: float | None) -> Generator[types.Event, None, None]:
        """Yields what happens in a generation, which begins with the first event that is asked for."""
        with closing(self._responses(request, seconds)) as responses:
            yield from _told(responses, GenerationFold(request.request_id))

    def fold(self, request: pb.GenerateImageRequest, seconds: float | None) -> GenerationFold:
        """Returns what a generation told, once its stream has ended."""
        fold = GenerationFold(request.request_id)
        with closing(self._responses(request, seconds)) as responses:
            for response in responses:
                fold.feed(response)
        return fold

    def watched(
        self, request_id: str, after_sequence: int, seconds: float | None
    ) -> Generator[types.Event, None, None]:
        """Yields what happened after an event of a generation, and what happens."""
        place = Reattachment(seconds, after_sequence)
        plan = self._plan(request_id) if after_sequence else None
        responses = self._lasting(self._watch(request_id, place), request_id, place)
        with closing(responses):
            yield from _told(responses, GenerationFold(request_id, plan))

    def _plan(self, request_id: str) -> types.GenerationPlan:
        """Returns what a generation executes; an empty plan where that is forgotten, as it may be before its events."""
        try:
            return _convert.plan(self.generation(request_id).plan)
        except NotFoundError:
            return _convert.plan(pb.GenerationPlan())

    def healthy(self) -> bool:
        """Returns whether the service takes requests: False if it does not, or if nobody answers."""
        try:
            return bool(self.call(self._check_health, SERVICE))
        except ImageGenError as error:
            if error.code in NOT_SERVING_CODES:
                return False
            raise

    def close(self) -> None:
        """Closes the channel and cancels what still runs on it. May be called more than once."""
        self._closed = True
        self._channel.close()

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")

    def _responses(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> Generator[pb.GenerateImageResponse, None, None]:
        """Yields the messages of a generation; through lost connections if it outlives them."""
        messages = self._generated(request, seconds)
        if lasts(request):
            return self._lasting(messages, request.request_id, Reattachment(seconds))
        return messages

    def _generated(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> Generator[pb.GenerateImageResponse, None, None]:
        self._require_open()
        call = self.stub.GenerateImage(request, timeout=seconds, metadata=self._metadata())
        yield from _read(call, request.request_id)

    def _watch(self, request_id: str, place: Reattachment) -> Generator[pb.GenerateImageResponse, None, None]:
        self._require_open()
        request = pb.WatchGenerationRequest(request_id=request_id, after_sequence=place.last)
        call = self.stub.WatchGeneration(request, timeout=place.remaining(), metadata=self._metadata())
        with closing(_read(call, request_id)) as answers:
            for answer in answers:
                yield answer.response

    def _lasting(
        self, messages: Generator[pb.GenerateImageResponse, None, None], request_id: str, place: Reattachment
    ) -> Generator[pb.GenerateImageResponse, None, None]:
        """Yields messages, and those that follow them after a lost connection."""
        while True:
            try:
                with closing(messages):
                    for response in messages:
                        place.received(response)
                        yield response
                return
            except UnreachableError as error:
                pause = place.pause(error)
            except (NotFoundError, ServiceUnavailableError) as error:
                place.refused(error)
                raise
            time.sleep(pause)
            messages = self._watch(request_id, place)


def _read(call: Any, request_id: str) -> Generator[Any, None, None]:
    """Yields what a call brings, and ends it whatever happens."""
    try:
        yield from call
    except grpc.RpcError as error:
        raise error_from_rpc(error, request_id) from error
    finally:
        # Stops the server, unless the stream has ended. An interceptor may have put a generator around the call.
        if isinstance(call, Generator):
            call.close()
        else:
            call.cancel()


def _told(responses: Iterator[pb.GenerateImageResponse], fold: GenerationFold) -> Generator[types.Event, None, None]:
    """Yields the events that messages tell."""
    for response in responses:
        event = fold.feed(response)
        if event is not None:
            yield event
    if not fold.nothing_followed:
        yield fold.finish()
