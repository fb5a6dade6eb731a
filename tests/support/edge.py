"""A real gRPC server on loopback in front of a scripted engine, and what it told its observers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.api import (
    Authenticate,
    Backend,
    EdgeSettings,
    JournalSettings,
    ServerSettings,
    ServerTls,
    StreamSettings,
    create_server,
)
from imagegen_server.api.time_left import EARLY
from imagegen_server.core import AuthFailure, Metadata, Refusal, RejectReason, RpcMethod
from support.scripted_engine import ScriptedBackend, ScriptedEngine, accepted, finished
from support.waiting import until

EOF: Final = cast(Any, grpc.aio).EOF  # which its stubs lack
"""What `read` returns at the end of a stream."""


class Recorder:
    """Implements both observers of the edge by remembering."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, RpcMethod]] = []
        self.metadata: list[tuple[tuple[str, str | bytes], ...]] = []
        self.codes: list[tuple[RpcMethod, grpc.StatusCode]] = []
        self.rejections: list[RejectReason] = []
        self.stalls: list[float] = []
        self.bugs: list[tuple[str, str, BaseException]] = []
        self.auth_failures: list[tuple[str, str]] = []
        self.refusals: list[Refusal] = []
        self.failures: list[AuthFailure] = []

    def started(self, method: RpcMethod, metadata: Metadata) -> None:
        """A call began."""
        self.metadata.append(tuple(metadata))
        self.calls.append(("started", method))

    def msg_received(self, method: RpcMethod) -> None:
        """A message came."""
        self.calls.append(("received", method))

    def msg_sent(self, method: RpcMethod) -> None:
        """A message went."""
        self.calls.append(("sent", method))

    def handled(self, method: RpcMethod, code: grpc.StatusCode, seconds: float) -> None:
        """A call ended."""
        assert seconds >= 0
        self.codes.append((method, code))

    def rejected(self, refusal: Refusal) -> None:
        """A generation was refused."""
        self.rejections.append(refusal.reason)
        self.refusals.append(refusal)

    def auth_failed(self, failure: AuthFailure) -> None:
        """Credentials were refused."""
        self.auth_failures.append((failure.reason, failure.detail))
        self.failures.append(failure)

    def write_stalled(self, seconds: float) -> None:
        """A write took long."""
        self.stalls.append(seconds)

    def bug(self, method: str, request_id: str, error: BaseException) -> None:
        """A handler raised something unexpected."""
        self.bugs.append((method, request_id, error))

    def count(self, what: str) -> int:
        """Returns how often something was observed."""
        return sum(1 for kind, _ in self.calls if kind == what)


@dataclass
class Edge:
    """A running server and a channel to it."""

    engine: ScriptedEngine
    backend: ScriptedBackend
    seen: Recorder
    server: Any
    channel: grpc.aio.Channel
    port: int

    @property
    def stub(self) -> Any:
        """A stub on the channel."""
        return pb_grpc.ImageGenStub(self.channel)

    async def settled(self) -> None:
        """Waits until every started call was handled."""
        await until(
            lambda: self.seen.count("started") == len(self.seen.codes),
            lambda: f"{self.seen.count('started')} calls began, these ended: {self.seen.codes}",
        )


@asynccontextmanager
async def running_edge(
    stream: StreamSettings | None = None,
    backend: Backend | None = None,
    *,
    tls: ServerTls | None = None,
    auth: Callable[[Recorder], Authenticate] | None = None,
    journal: JournalSettings | None = None,
    early: float = EARLY,
    max_readers: int = 128,
    **settings: Any,
) -> AsyncIterator[Edge]:
    """Yields a serving edge, in front of a scripted engine unless told otherwise; closes everything afterwards.

    Its channel is in plain text, and so of no use with `tls`. `auth` makes what lets calls in from their observer.
    """
    engine, seen = ScriptedEngine(script=(accepted(), finished())), Recorder()
    scripted = ScriptedBackend(engine)
    server = await create_server(
        backend or scripted,
        settings=ServerSettings(address="127.0.0.1:0", **settings),
        edge=EdgeSettings(
            stream=stream or StreamSettings(),
            journal=journal or JournalSettings(),
            early=early,
            max_readers=max_readers,
        ),
        rpc_observer=seen,
        edge_observer=seen,
        tls=tls,
        auth=None if auth is None else auth(seen),
    )
    await server.start()
    await server.set_serving(True)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))
        yield Edge(engine=engine, backend=scripted, seen=seen, server=server, channel=channel, port=server.port)


@asynccontextmanager
async def own_channel(port: int, *options: tuple[str, int]) -> AsyncIterator[Any]:
    """Yields a stub on a connection of its own, with a single attempt."""
    single = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [*single, *options]) as channel:
        yield pb_grpc.ImageGenStub(channel)


def trailers(error: grpc.RpcError) -> dict[str, Any]:
    """Returns the trailing metadata of an error by name, of a call of either kind."""
    pairs: Any = error.trailing_metadata()
    return dict(tuple(pairs or ()))


def rich_status(error: grpc.aio.AioRpcError) -> tuple[status_pb2.Status, dict[str, Any]]:
    """Returns the google.rpc.Status of an error and its details by name."""
    status = status_pb2.Status.FromString(trailers(error)["grpc-status-details-bin"])
    details = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        assert packed.Unpack(message)
        details[name] = message
    return status, details


async def refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """Returns the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def drained(call: Any) -> list[Any]:
    """Returns every message of a stream, of whichever method."""
    return [message async for message in call]


def reassembled(messages: list[pb.GenerateImageResponse]) -> dict[int, bytes]:
    """Returns the files of a stream; every chunk must continue where the last one ended."""
    files: dict[int, bytes] = {}
    for message in messages:
        if message.WhichOneof("event") == "image_chunk":
            chunk = message.image_chunk
            assert chunk.offset == len(files.get(chunk.image_index, b""))
            files[chunk.image_index] = files.get(chunk.image_index, b"") + chunk.data
    return files


async def read_on(call: Any) -> list[pb.GenerateImageResponse]:
    """Returns the rest of a stream that was begun with read()."""
    messages = []
    while (message := await call.read()) is not EOF:
        messages.append(message)
    return messages
