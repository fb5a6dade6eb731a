"""How the synchronous client makes its calls: the channel, what each call carries, reading, and going on after a loss.

Speaks in messages of the contract and in the events that they tell; what users call is in `_client`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

import grpc

from imagegen import _convert, types
from imagegen._channel import Connection
from imagegen._elsewhere import GOES_ELSEWHERE, Repeats, sends_elsewhere
from imagegen._health import NOT_SERVING_CODES, SERVICE
from imagegen._links import Link, Links
from imagegen._reattach import Reattachment, lasts
from imagegen._status import error_from_rpc
from imagegen._stream import GenerationFold
from imagegen.errors import ImageGenError, NotFoundError, ServiceUnavailableError, UnreachableError
from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub

_Response = TypeVar("_Response")


class Calls:
    """The calls of one client, to one server at a time. Safe to share between threads.

    A server that drains, or that still loads, is left for another one that serves, if there is one. What it has begun
    is asked of it all the same.

    Every call raises `errors.ImageGenError` for what goes wrong on the way or on the server, and RuntimeError after
    `close`.
    """

    def __init__(self, connection: Connection) -> None:
        """Makes the channel, which connects with the first call."""
        self._metadata = connection.metadata
        self._max_attempts = connection.max_attempts
        self._links = Links(connection)
        self.call = self._links.call
        self.close = self._links.close

    @property
    def stub(self) -> ImageGenStub:
        """Has the methods that `call` takes."""
        return self._links.current.stub

    def render(self, request: pb.RenderImageRequest, seconds: float | None) -> pb.RenderImageResponse:
        """Returns the result of a generation in one answer."""
        request_id = request.generation.request_id
        return self._repeated(
            lambda link, left: self.call(link.stub.RenderImage, request, request_id, left, GOES_ELSEWHERE), seconds
        )

    def generation(self, request_id: str) -> pb.GetGenerationResponse:
        """Returns what the server that has a generation knows of it."""
        return self._links.generation(self._links.holder(request_id), request_id)

    def cancel(self, request_id: str) -> pb.CancelGenerationResponse:
        """Stops a generation on the server that has it."""
        request = pb.CancelGenerationRequest(request_id=request_id)
        return self.call(self._links.holder(request_id).stub.CancelGeneration, request, request_id)

    def events(self, request: pb.GenerateImageRequest, seconds: float | None) -> Generator[types.Event, None, None]:
        """Yields what happens in a generation, which begins with the first event that is asked for."""
        repeats = Repeats(seconds, self._max_attempts)
        while True:
            link, told = self._links.current, False
            responses = self._responses(link, request, repeats.remaining())
            try:
                with closing(_told(responses, GenerationFold(request.request_id))) as events:
                    for event in events:
                        told = True
                        yield event
                return
            except ServiceUnavailableError as error:
                if told or not self._again(link, error, repeats):
                    raise

    def fold(self, request: pb.GenerateImageRequest, seconds: float | None) -> GenerationFold:
        """Returns what a generation told, once its stream has ended."""
        return self._repeated(lambda link, left: self._fold(link, request, left), seconds)

    def watched(
        self, request_id: str, after_sequence: int, seconds: float | None
    ) -> Generator[types.Event, None, None]:
        """Yields what happened after an event of a generation, and what happens."""
        place = Reattachment(seconds, after_sequence)
        link = self._links.holder(request_id)
        plan = self._plan(link, request_id) if after_sequence else None
        responses = self._lasting(link, self._watch(link, request_id, place), request_id, place)
        yield from _told(responses, GenerationFold(request_id, plan))

    def healthy(self) -> bool:
        """Returns whether the service takes requests: False if no server that it finds does, or if nobody answers."""
        link = self._links.current
        try:
            return bool(self.call(link.check, SERVICE)) or self._links.leave(link)
        except ImageGenError as error:
            if error.code in NOT_SERVING_CODES:
                return False
            raise

    def _repeated(self, attempt: Callable[[Link, float | None], _Response], seconds: float | None) -> _Response:
        """Returns what an attempt returns that has a link and some seconds; made again where another server serves."""
        repeats = Repeats(seconds, self._max_attempts)
        while True:
            link = self._links.current
            try:
                return attempt(link, repeats.remaining())
            except ServiceUnavailableError as error:
                if not self._again(link, error, repeats):
                    raise

    def _again(self, link: Link, error: ServiceUnavailableError, repeats: Repeats) -> bool:
        """Returns whether a call that ended so may be made again, which then is on another link."""
        return sends_elsewhere(error) and self._links.leave(link) and repeats.another()

    def _plan(self, link: Link, request_id: str) -> types.GenerationPlan:
        """Returns what a generation executes; an empty plan where that is forgotten, as it may be before its events."""
        try:
            return _convert.plan(self._links.generation(link, request_id).plan)
        except NotFoundError:
            return _convert.plan(pb.GenerationPlan())

    def _fold(self, link: Link, request: pb.GenerateImageRequest, seconds: float | None) -> GenerationFold:
        fold = GenerationFold(request.request_id)
        with closing(self._responses(link, request, seconds)) as responses:
            for response in responses:
                fold.feed(response)
        return fold

    def _responses(
        self, link: Link, request: pb.GenerateImageRequest, seconds: float | None
    ) -> Generator[pb.GenerateImageResponse, None, None]:
        """Yields the messages of a generation; through lost connections if it outlives them."""
        messages = self._generated(link, request, seconds)
        if lasts(request):
            return self._lasting(link, messages, request.request_id, Reattachment(seconds))
        return messages

    def _generated(
        self, link: Link, request: pb.GenerateImageRequest, seconds: float | None
    ) -> Generator[pb.GenerateImageResponse, None, None]:
        self._links.require_open()
        call = link.stub.GenerateImage(request, timeout=seconds, metadata=(*self._metadata(), *GOES_ELSEWHERE))
        yield from _read(call, request.request_id)

    def _watch(
        self, link: Link, request_id: str, place: Reattachment
    ) -> Generator[pb.GenerateImageResponse, None, None]:
        self._links.require_open()
        request = pb.WatchGenerationRequest(request_id=request_id, after_sequence=place.last)
        call = link.stub.WatchGeneration(request, timeout=place.remaining(), metadata=self._metadata())
        with closing(_read(call, request_id)) as answers:
            for answer in answers:
                yield answer.response

    def _lasting(
        self,
        link: Link,
        messages: Generator[pb.GenerateImageResponse, None, None],
        request_id: str,
        place: Reattachment,
    ) -> Generator[pb.GenerateImageResponse, None, None]:
        """Yields messages, and those that follow them after a lost connection, from the same server."""
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
            messages = self._watch(link, request_id, place)


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


def _told(
    messages: Generator[pb.GenerateImageResponse, None, None], fold: GenerationFold
) -> Generator[types.Event, None, None]:
    """Yields the events that messages tell, and closes them whatever happens."""
    with closing(messages) as responses:
        for response in responses:
            event = fold.feed(response)
            if event is not None:
                yield event
    if not fold.nothing_followed:
        yield fold.finish()
