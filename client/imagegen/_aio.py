"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from imagegen import _channel, _convert, _convert_answers, _convert_server, types
from imagegen._access import Access, Secret
from imagegen._health import HEALTH_METHOD, NOT_SERVING_CODES, SERVICE, decode_check, encode_check
from imagegen._reattach import Reattachment
from imagegen._request import build_request, require_single
from imagegen._status import error_from_rpc
from imagegen._stream import GenerationFold
from imagegen.errors import GenerationCancelledError, UnreachableError
from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub

if TYPE_CHECKING:  # the alias exists in the stubs only
    from imagegen.v1.imagegen_pb2_grpc import ImageGenAsyncStub

_Response = TypeVar("_Response")


def _closed_by_client(request_id: str) -> GenerationCancelledError | None:
    """Returns the error of a call that ended because its client was closed; None if the task itself is cancelled.

    grpc.aio raises asyncio.CancelledError in both cases. Only the second may reach the caller: a task that nobody
    cancelled must not end as if somebody had.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return None
    return GenerationCancelledError("the client was closed", code=grpc.StatusCode.CANCELLED, request_id=request_id)


class AsyncClient:
    """A connection to an ImageGen server for one event loop; close it, or use it in an `async with` block.

    The methods and errors are those of `Client`. Cancelling a task that waits for a call cancels the call.
    """

    def __init__(
        self,
        target: str = _channel.DEFAULT_TARGET,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        tls: bool = False,
        root_certificates: bytes | None = None,
        client_certificate: tuple[bytes, bytes] | None = None,
        api_key: Secret | None = None,
        token: Secret | None = None,
        allow_plaintext_credentials: bool = False,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        max_attempts: int = _channel.DEFAULT_MAX_ATTEMPTS,
        metadata: _channel.Metadata | Callable[[], _channel.Metadata] = (),
    ) -> None:
        """Prepares a connection; it belongs to the event loop of the first call. Arguments as for `Client`."""
        access = Access(
            credentials=credentials,
            tls=tls,
            root_certificates=root_certificates,
            client_certificate=client_certificate,
            api_key=api_key,
            token=token,
            allow_plaintext_credentials=allow_plaintext_credentials,
        )
        self._target = target
        self._credentials = access.channel_credentials(target)
        self._timeout = _channel.checked_timeout(timeout)
        self._options = _channel.channel_options(max_attempts)
        self._metadata = _channel.metadata_source(metadata, access)
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    def generate(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[types.GenerationKeywords]
    ) -> AsyncGenerator[types.Event, None]:
        """Generates images and yields what happens: first `Accepted`, last `Completed`.

        The call begins with the first event that is asked for. Closing or abandoning the generator cancels it (with
        `on_disconnect=OnDisconnect.CONTINUE`, only the call); `contextlib.aclosing` makes that happen at once where a
        loop is left early. Arguments as for `Client.generate`.
        """
        request = build_request(prompt, options)
        return self._events(request, _channel.deadline(timeout, self._timeout))

    async def generate_images(
        self,
        prompt: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (a gRPC deadline: the server learns of it)
        **options: Unpack[types.GenerationKeywords],
    ) -> tuple[types.GeneratedImage, ...]:
        """Generates images and returns them in order. Arguments as for `generate`."""
        request = build_request(prompt, options)
        fold = GenerationFold(request.request_id)
        seconds = _channel.deadline(timeout, self._timeout)
        async with aclosing(self._responses(request, seconds)) as responses:
            async for response in responses:
                fold.feed(response)
        return fold.finish().images

    async def generate_image(
        self,
        prompt: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (a gRPC deadline: the server learns of it)
        **options: Unpack[types.GenerationKeywords],
    ) -> types.GeneratedImage:
        """Generates one image and returns it. Arguments as for `generate`; ValueError for `num_images` above 1."""
        require_single(options)
        return (await self.generate_images(prompt, timeout=timeout, **options))[0]

    async def plan(self, prompt: str, **options: Unpack[types.GenerationKeywords]) -> types.Accepted:
        """Returns what `generate` would execute, with its estimate, and runs nothing."""
        request = build_request(prompt, options, validate_only=True)
        fold = GenerationFold(request.request_id)
        async with aclosing(self._responses(request, _channel.UNARY_TIMEOUT)) as responses:
            async for response in responses:
                fold.feed(response)
        return fold.finish_plan()

    async def render(
        self,
        prompt: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (a gRPC deadline: the server learns of it)
        include_image_data: bool = False,
        **options: Unpack[types.GenerationKeywords],
    ) -> types.RenderResult:
        """Generates images and returns the whole result at once, with the images' bytes if they are asked for.

        Arguments as for `generate`, which also tells the progress and needs less memory for large results.
        """
        request = pb.RenderImageRequest(
            generation=build_request(prompt, options), include_image_data=include_image_data
        )
        seconds = _channel.deadline(timeout, self._timeout)
        answer = await self._call(self._stub().RenderImage, request, request.generation.request_id, seconds)
        return _convert_answers.render_result(answer, with_data=include_image_data)

    def watch(
        self,
        request_id: str,
        *,
        after_sequence: int = 0,
        timeout: float | None = None,
    ) -> AsyncGenerator[types.Event, None]:
        """Yields what happened to a running or recent generation, and what happens; last `Completed`.

        Arguments and errors as for `Client.watch`.
        """
        return self._watched(request_id, after_sequence, _channel.deadline(timeout, self._timeout))

    async def get(self, request_id: str) -> types.GenerationInfo:
        """Returns what the server knows of a running or recent generation; NotFoundError if it knows nothing."""
        request = pb.GetGenerationRequest(request_id=request_id)
        return _convert_answers.generation_info(await self._call(self._stub().GetGeneration, request, request_id))

    async def cancel(self, request_id: str) -> types.GenerationState:
        """Stops a generation, whoever asked for it, and returns its state. One that has ended is left as it is."""
        request = pb.CancelGenerationRequest(request_id=request_id)
        response = await self._call(self._stub().CancelGeneration, request, request_id)
        return _convert.generation_state(response.state)

    async def models(self) -> tuple[types.ModelInfo, ...]:
        """Returns the model profiles, loaded ones first."""
        response = await self._call(self._stub().ListModels, pb.ListModelsRequest())
        return tuple(_convert_server.model(model) for model in response.models)

    async def server_info(self) -> types.ServerInfo:
        """Returns what the server says about itself."""
        return _convert_server.server_info(await self._call(self._stub().GetServerInfo, pb.GetServerInfoRequest()))

    async def healthy(self) -> bool:
        """Returns whether the service takes requests: False if it does not, or if nobody answers."""
        check = self._connect().unary_unary(
            HEALTH_METHOD, request_serializer=encode_check, response_deserializer=decode_check
        )
        try:
            return bool(await check(SERVICE, timeout=_channel.UNARY_TIMEOUT, metadata=self._metadata()))
        except grpc.RpcError as error:
            if error.code() in NOT_SERVING_CODES:
                return False
            raise error_from_rpc(error) from error

    async def close(self) -> None:
        """Closes the connection and cancels what still runs on it. May be called more than once."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

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

    def _stub(self) -> ImageGenAsyncStub:
        return ImageGenStub(self._connect())

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, _Response],
        request: object,
        request_id: str = "",
        seconds: float | None = _channel.UNARY_TIMEOUT,
    ) -> _Response:
        try:
            return await method(request, timeout=seconds, metadata=self._metadata())
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id) from error
        except asyncio.CancelledError:
            closed = _closed_by_client(request_id)
            if closed is None:
                raise
            raise closed from None

    def _responses(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        """Yields the messages of a generation; through lost connections if it outlives them."""
        messages = self._generated(request, seconds)
        if request.on_disconnect == pb.ON_DISCONNECT_CONTINUE and not request.validate_only:
            return self._lasting(messages, request.request_id, Reattachment(seconds))
        return messages

    async def _generated(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        call = self._stub().GenerateImage(request, timeout=seconds, metadata=self._metadata())
        async with aclosing(self._read(call, request.request_id)) as responses:
            async for response in responses:
                yield response

    async def _watch(self, request_id: str, place: Reattachment) -> AsyncGenerator[pb.GenerateImageResponse, None]:
        request = pb.WatchGenerationRequest(request_id=request_id, after_sequence=place.last)
        call = self._stub().WatchGeneration(request, timeout=place.remaining(), metadata=self._metadata())
        async with aclosing(self._read(call, request_id)) as answers:
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
            await asyncio.sleep(pause)
            messages = self._watch(request_id, place)

    async def _read(
        self, call: grpc.aio.UnaryStreamCall[Any, _Response], request_id: str
    ) -> AsyncGenerator[_Response, None]:
        """Yields what a call brings, and ends it whatever happens."""
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id) from error
        except asyncio.CancelledError:
            closed = _closed_by_client(request_id)
            if closed is None:
                raise
            raise closed from None
        finally:
            # Stops the server, unless the stream has ended.
            call.cancel()

    async def _events(
        self, request: pb.GenerateImageRequest, seconds: float | None
    ) -> AsyncGenerator[types.Event, None]:
        fold = GenerationFold(request.request_id)
        async with aclosing(self._responses(request, seconds)) as responses:
            async for response in responses:
                event = fold.feed(response)
                if event is not None:
                    yield event
        yield fold.finish()

    async def _watched(
        self, request_id: str, after_sequence: int, seconds: float | None
    ) -> AsyncGenerator[types.Event, None]:
        place = Reattachment(seconds, after_sequence)
        plan = (await self.get(request_id)).plan if after_sequence else None
        fold = GenerationFold(request_id, plan)
        async with aclosing(self._lasting(self._watch(request_id, place), request_id, place)) as responses:
            async for response in responses:
                event = fold.feed(response)
                if event is not None:
                    yield event
        yield fold.finish()
