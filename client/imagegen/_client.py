"""The synchronous client."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self, Unpack

import grpc

from imagegen import _channel, _convert, _convert_answers, _convert_server, types
from imagegen._access import Access, Secret
from imagegen._calls import Calls
from imagegen._request import build_request, require_single
from imagegen._target import DEFAULT_TARGET
from imagegen.v1 import imagegen_pb2 as pb


class Client:
    """A connection to an ImageGen server. Safe to share between threads; close it, or use it in a `with` block.

    Every call raises `errors.ImageGenError` for what goes wrong on the way or on the server, and RuntimeError after
    `close`.
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
        """Prepares a connection; nothing is sent before the first call.

        `target` is host:port or another gRPC target; ValueError for what is neither. A client talks to one server: the
        first of a list (`ipv4:10.0.0.1:50051,10.0.0.2:50051`) that answers, or any of those that a name stands for
        (`dns:///…`). When that drains, what begins afterwards goes to another one that serves.

        The connection is plain text, unless there are `credentials` of gRPC's own, or `tls` asks for TLS with gRPC's
        root certificates, or `root_certificates` (PEM) are to be trusted instead, or `client_certificate` (chain and
        key, PEM) shows who this is. `tls_server_name` is the name in the server's certificate, where the target is
        another. `api_key` or `token` (a bearer token) accompanies every call; a function is asked for it at the
        beginning of each. Neither is sent to another host in plain text, unless `allow_plaintext_credentials`: that,
        what no header can carry (a key or a token is printable ASCII), and arguments that exclude each other raise
        ValueError.

        `timeout` is the default of generations, in seconds; `math.inf` sets no deadline. `max_attempts` (1 to 5)
        counts the attempts of a call that is refused for now or finds no server. `metadata` accompanies every call; a
        function is asked for it at the beginning of each, in the thread or task that makes the call. What no header can
        carry raises ValueError: here, or in the call that asks the function for it. `channel_options` are gRPC's own
        (`("grpc.lb_policy_name", "round_robin")`), in addition to this client's or in place of them.
        """
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
        self._calls = Calls(
            _channel.connection(target, access, metadata=metadata, max_attempts=max_attempts, options=channel_options)
        )

    def generate(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[types.GenerationKeywords]
    ) -> Generator[types.Event, None, None]:
        """Generates images and yields what happens: first `Accepted`, last `Completed`.

        The call begins with the first event that is asked for. Closing or abandoning the generator cancels it; with
        `on_disconnect=OnDisconnect.CONTINUE` that leaves the generation running, and the events go on through lost
        connections: the client re-attaches after the last one that arrived, and raises GenerationLostError where the
        server that answers does not know it. `timeout` in seconds replaces the client's; the options are the fields of
        `types.GenerationOptions`. Raises TypeError for an unknown option at once.
        """
        request = build_request(prompt, options)
        return self._calls.events(request, _channel.deadline(timeout, self._timeout))

    def generate_images(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[types.GenerationKeywords]
    ) -> tuple[types.GeneratedImage, ...]:
        """Generates images and returns them in order. Arguments as for `generate`."""
        request = build_request(prompt, options)
        return self._calls.fold(request, _channel.deadline(timeout, self._timeout)).finish().images

    def generate_image(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[types.GenerationKeywords]
    ) -> types.GeneratedImage:
        """Generates one image and returns it. Arguments as for `generate`; ValueError for `num_images` above 1."""
        require_single(options)
        return self.generate_images(prompt, timeout=timeout, **options)[0]

    def plan(self, prompt: str, **options: Unpack[types.GenerationKeywords]) -> types.Accepted:
        """Returns what `generate` would execute, with its estimate, and runs nothing."""
        request = build_request(prompt, options, validate_only=True)
        return self._calls.fold(request, _channel.UNARY_TIMEOUT).finish_plan()

    def render(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
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
        return _convert_answers.render_result(self._calls.render(request, seconds), with_data=include_image_data)

    def watch(
        self, request_id: str, *, after_sequence: int = 0, timeout: float | None = None
    ) -> Generator[types.Event, None, None]:
        """Yields what happened to a running or recent generation, and what happens; last `Completed`.

        With `after_sequence` events up to that one are left out, and `Completed.images` has the images that came
        afterwards; after the last one nothing comes. Closing the generator stops the watching, never the generation.
        Goes on through lost connections. Raises NotFoundError for an unknown id, GenerationLostError for one that is
        unknown after a lost connection, EventsNotKeptError for events that the server does not keep any more, and what
        the generation ends with.
        """
        return self._calls.watched(request_id, after_sequence, _channel.deadline(timeout, self._timeout))

    def get(self, request_id: str) -> types.GenerationInfo:
        """Returns what the server knows of a running or recent generation; NotFoundError if it knows nothing."""
        return _convert_answers.generation_info(self._calls.generation(request_id))

    def cancel(self, request_id: str) -> types.GenerationState:
        """Stops a generation, whoever asked for it, and returns its state. One that has ended is left as it is."""
        return _convert.generation_state(self._calls.cancel(request_id).state)

    def models(self) -> tuple[types.ModelInfo, ...]:
        """Returns the model profiles, loaded ones first."""
        response = self._calls.call(self._calls.stub.ListModels, pb.ListModelsRequest())
        return tuple(_convert_server.model(model) for model in response.models)

    def server_info(self) -> types.ServerInfo:
        """Returns what the server says about itself."""
        return _convert_server.server_info(self._calls.call(self._calls.stub.GetServerInfo, pb.GetServerInfoRequest()))

    def healthy(self) -> bool:
        """Returns whether the service takes requests: False if it does not, or if nobody answers."""
        return self._calls.healthy()

    def close(self) -> None:
        """Closes the connection and cancels what still runs on it. May be called more than once."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
