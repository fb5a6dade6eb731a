"""The asyncio client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Self, Unpack

import grpc

from imagegen import _channel, _convert, _convert_answers, _convert_server, types
from imagegen._access import Access, Secret
from imagegen._aio_calls import AsyncCalls
from imagegen._request import build_request, require_single
from imagegen._target import DEFAULT_TARGET
from imagegen.v1 import imagegen_pb2 as pb


class AsyncClient:
    """A connection to an ImageGen server for one event loop; close it, or use it in an `async with` block.

    The methods and errors are those of `Client`. Cancelling a task that waits for a call cancels the call.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        tls: bool = False,
        root_certificates: bytes | None = None,
        client_certificate: tuple[bytes, bytes] | None = None,
        tls_server_name: str | None = None,
        api_key: Secret | None = None,
        token: Secret | None = None,
        allow_plaintext_credentials: bool = False,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        max_attempts: int = _channel.DEFAULT_MAX_ATTEMPTS,
        metadata: _channel.Metadata | Callable[[], _channel.Metadata] = (),
        channel_options: _channel.Options = (),
    ) -> None:
        """Prepares a connection; it belongs to the event loop of the first call. Arguments as for `Client`."""
        self._timeout = _channel.checked_timeout(timeout)
        access = Access(
            credentials=credentials,
            tls=tls,
            root_certificates=root_certificates,
            client_certificate=client_certificate,
            tls_server_name=tls_server_name,
            api_key=api_key,
            token=token,
            allow_plaintext_credentials=allow_plaintext_credentials,
        )
        self._calls = AsyncCalls(
            _channel.connection(target, access, metadata=metadata, max_attempts=max_attempts, options=channel_options)
        )

    def generate(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[types.GenerationKeywords]
    ) -> AsyncGenerator[types.Event, None]:
        """Generates images and yields what happens: first `Accepted`, last `Completed`.

        The call begins with the first event that is asked for. Closing or abandoning the generator cancels it (with
        `on_disconnect=OnDisconnect.CONTINUE`, only the call); `contextlib.aclosing` makes that happen at once where a
        loop is left early. Arguments as for `Client.generate`.
        """
        request = build_request(prompt, options)
        return self._calls.events(request, _channel.deadline(timeout, self._timeout))

    async def generate_images(
        self,
        prompt: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (a gRPC deadline: the server learns of it)
        **options: Unpack[types.GenerationKeywords],
    ) -> tuple[types.GeneratedImage, ...]:
        """Generates images and returns them in order. Arguments as for `generate`."""
        request = build_request(prompt, options)
        return (await self._calls.fold(request, _channel.deadline(timeout, self._timeout))).finish().images

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
        return (await self._calls.fold(request, _channel.UNARY_TIMEOUT)).finish_plan()

    async def render(
        self,
        prompt: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (a gRPC deadline: the server learns of it)
        include_image_data: bool = False,
        **options: Unpack[types.GenerationKeywords],
    ) -> types.RenderResult:
        """Generates images and returns the whole result at once, with the images' bytes if they are asked for.

        Arguments as for `generate`, which also tells the progress and needs less memory for large results. If the
        connection breaks before the answer begins to arrive, the call is made again from the start, with the same
        request id; if it breaks later, the call raises UnreachableError, and may be repeated.
        """
        request = pb.RenderImageRequest(
            generation=build_request(prompt, options), include_image_data=include_image_data
        )
        seconds = _channel.deadline(timeout, self._timeout)
        return _convert_answers.render_result(await self._calls.render(request, seconds), with_data=include_image_data)

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
        return self._calls.watched(request_id, after_sequence, _channel.deadline(timeout, self._timeout))

    async def get(self, request_id: str) -> types.GenerationInfo:
        """Returns what the server knows of a running or recent generation; NotFoundError if it knows nothing."""
        return _convert_answers.generation_info(await self._calls.generation(request_id))

    async def cancel(self, request_id: str) -> types.GenerationState:
        """Stops a generation, whoever asked for it, and returns its state. One that has ended is left as it is."""
        return _convert.generation_state((await self._calls.cancel(request_id)).state)

    async def models(self) -> tuple[types.ModelInfo, ...]:
        """Returns the model profiles, loaded ones first."""
        response = await self._calls.call(self._calls.stub.ListModels, pb.ListModelsRequest())
        return tuple(_convert_server.model(model) for model in response.models)

    async def server_info(self) -> types.ServerInfo:
        """Returns what the server says about itself."""
        return _convert_server.server_info(
            await self._calls.call(self._calls.stub.GetServerInfo, pb.GetServerInfoRequest())
        )

    async def healthy(self) -> bool:
        """Returns whether the service takes requests: False if it does not, or if nobody answers."""
        return await self._calls.healthy()

    async def close(self) -> None:
        """Closes the connection and cancels what still runs on it. May be called more than once."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
