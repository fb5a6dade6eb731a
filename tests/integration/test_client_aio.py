"""The asyncio client against a real gRPC server whose answers are scripted."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from contextvars import ContextVar

import grpc
import pytest

from imagegen import AsyncClient, Client, errors, types
from imagegen.v1 import imagegen_pb2 as pb
from support import messages
from support.scripted_service import WAIT, Endless, ScriptedService, error_info, refuse, retry_info, serving


@pytest.fixture
async def client(service: ScriptedService) -> AsyncIterator[AsyncClient]:
    """A client of it, with a single attempt."""
    async with AsyncClient(service.target, max_attempts=1) as connected:
        yield connected


async def happened(event: threading.Event) -> bool:
    """Waits for something on the server's side without holding up the loop."""
    return await asyncio.to_thread(event.wait, WAIT)


def test_both_clients_have_the_same_methods() -> None:
    """Whatever one client can do, the other can, with the same arguments."""

    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in vars(kind).items()
            if not name.startswith("_") or name == "__init__"
        }

    assert methods(AsyncClient) == methods(Client)


async def test_events_come_in_order_and_end_with_completed(client: AsyncClient) -> None:
    """`generate` tells the whole story, typed, first accepted and last completed."""
    events = [event async for event in client.generate("a circle", seed=0, num_images=2)]
    assert isinstance(events[0], types.Accepted)
    assert isinstance(events[-1], types.Completed)
    received = [event.image.data for event in events if isinstance(event, types.ImageReceived)]
    assert received == [image.data for image in events[-1].images] == [messages.picture(), messages.picture(index=1)]


async def test_every_other_call_is_answered(service: ScriptedService, client: AsyncClient) -> None:
    """Images, plan, cancel, models, server info and health return the same values as in the synchronous client."""
    with Client(service.target) as twin:
        assert await client.models() == twin.models()
        assert await client.server_info() == twin.server_info()
        assert await client.cancel("known") == twin.cancel("known")
        assert await client.generate_images("a", num_images=2, request_id="i") == twin.generate_images(
            "a", num_images=2, request_id="i"
        )
        assert await client.generate_image("a", request_id="i") == twin.generate_image("a", request_id="i")
        assert await client.plan("a", request_id="i") == twin.plan("a", request_id="i")
        assert [request.validate_only for request in service.requests[-2:]] == [True, True]
        assert await client.healthy() is twin.healthy() is True


async def test_calls_carry_metadata_and_deadlines(service: ScriptedService) -> None:
    """The client's metadata accompanies a call; its timeout or the call's becomes the deadline."""
    async with AsyncClient(service.target, metadata=[("authorization", "Bearer token")], timeout=100) as client:
        await client.generate_image("a")
        await client.generate_image("a", timeout=1000)
        assert [event async for event in client.generate("a", timeout=1000)]
    assert {metadata["authorization"] for metadata in service.metadata} == {"Bearer token"}
    assert [left is not None and 0 < left < 150 for left in service.remaining] == [True, False, False]
    assert [left is not None and 150 < left < 1500 for left in service.remaining] == [False, True, True]


async def test_one_image_is_not_several(service: ScriptedService, client: AsyncClient) -> None:
    """What would be thrown away is not asked for."""
    with pytest.raises(ValueError, match="returns one image"):
        await client.generate_image("a", num_images=2)
    assert service.requests == []


async def test_a_large_image_passes_through_a_stock_channel(service: ScriptedService, client: AsyncClient) -> None:
    """A 16 MiB file arrives in chunks although no message may exceed gRPC's default of 4 MiB."""
    size = 16 * 2**20
    service.script = lambda request, _: messages.generation(request, size)
    assert (await client.generate_image("a")).data == messages.picture(size)


async def test_failures_become_the_clients_errors(service: ScriptedService, client: AsyncClient) -> None:
    """Statuses with details come out as one class, for streams and for single answers."""

    def script(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", error_info("QUEUE_FULL"), retry_info(1500))
        yield messages.accepted(request)

    service.script = script
    with pytest.raises(errors.QueueFullError, match="full") as caught:
        await client.generate_image("a", request_id="mine")
    assert (caught.value.retry_after, caught.value.request_id) == (1.5, "mine")
    with pytest.raises(errors.NotFoundError) as missing:
        await client.cancel("other")
    assert missing.value.details.resource_name == "other"


async def test_an_answer_that_cannot_be_used_is_an_error(service: ScriptedService, client: AsyncClient) -> None:
    """A stream that ends before completed raises, although the call itself ended well."""
    service.script = lambda request, _: iter(list(messages.generation(request))[:-1])
    with pytest.raises(errors.ProtocolError, match="ended before completed"):
        await client.generate_image("a")


async def test_a_refusal_for_now_is_retried_with_the_same_id(service: ScriptedService) -> None:
    """Attempts go on until one is taken, and all of them name the same generation."""

    def script(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        if len(service.requests) < 3:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "loading", error_info("LOADING"), pushback=1)
        yield from messages.generation(request)

    service.script = script
    async with AsyncClient(service.target) as client:
        image = await client.generate_image("a")
    assert [request.request_id for request in service.requests] == [image.request_id] * 3


async def test_closing_the_events_cancels_the_call(service: ScriptedService, client: AsyncClient) -> None:
    """The server learns at once that nobody listens any more."""
    service.script = endless = Endless()
    async with aclosing(client.generate("a")) as events:
        assert isinstance(await anext(events), types.Accepted)
    assert await happened(endless.ended)


async def test_abandoning_the_events_cancels_the_call(service: ScriptedService, client: AsyncClient) -> None:
    """Leaving the loop is enough; nothing has to be closed by hand."""
    service.script = endless = Endless()
    async for event in client.generate("a"):
        assert isinstance(event, types.Accepted)
        break
    assert await happened(endless.ended)


async def test_cancelling_a_task_cancels_its_generation(service: ScriptedService, client: AsyncClient) -> None:
    """asyncio.CancelledError reaches the task's caller, and the server stops."""
    service.script = endless = Endless()
    task = asyncio.create_task(client.generate_image("a"))
    assert await happened(endless.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert await happened(endless.ended)


async def test_asyncio_timeout_works(service: ScriptedService, client: AsyncClient) -> None:
    """asyncio's own timeout ends a generation as any other await."""
    service.script = endless = Endless()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.generate_image("a")
    assert await happened(endless.ended)


async def test_the_deadline_ends_a_generation(service: ScriptedService, client: AsyncClient) -> None:
    """A server that takes too long is left, and learns of it."""
    service.script = endless = Endless()
    with pytest.raises(errors.DeadlineExceededError):
        await client.generate_image("a", timeout=0.3)
    assert await happened(endless.ended)


async def test_closing_the_client_is_no_cancellation_of_the_task(service: ScriptedService) -> None:
    """A task whose client is closed under it gets an error of the client, and may go on."""
    service.script = endless = Endless()
    client = AsyncClient(service.target)
    task = asyncio.create_task(client.generate_image("a", request_id="mine"))
    assert await happened(endless.begun)
    await client.close()
    await client.close()
    with pytest.raises(errors.GenerationCancelledError) as caught:
        await task
    assert caught.value.request_id == "mine"
    with pytest.raises(RuntimeError, match="the client is closed"):
        await client.models()
    assert await happened(endless.ended)


async def test_closing_the_client_ends_a_health_check_alike() -> None:
    """Of a server that does not answer it."""
    begun, never = asyncio.Event(), asyncio.Event()

    async def check(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        begun.set()
        await never.wait()
        return b""

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(check)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = AsyncClient(f"127.0.0.1:{port}")
    task = asyncio.create_task(client.healthy())
    await begun.wait()
    await client.close()
    with pytest.raises(errors.GenerationCancelledError, match="the client was closed"):
        await task
    await server.stop(None)


async def test_generations_run_side_by_side(client: AsyncClient) -> None:
    """Several generations on one client do not mix."""
    images = await asyncio.gather(*(client.generate_image("a", request_id=f"g-{index}") for index in range(6)))
    assert [image.request_id for image in images] == [f"g-{index}" for index in range(6)]
    assert {image.data for image in images} == {messages.picture()}


async def test_no_server_is_unreachable_and_not_healthy() -> None:
    """Where nobody listens, calls say so in the client's own words, and health is False."""
    with serving(ScriptedService()) as gone:
        target = gone.target
    async with AsyncClient(target, max_attempts=1) as client:
        with pytest.raises(errors.UnreachableError):
            await client.models()
        assert await client.healthy() is False


def test_a_client_may_be_made_before_its_loop() -> None:
    """The connection belongs to the loop of the first call, so a client can be made anywhere."""
    with serving(ScriptedService()) as running:
        client = AsyncClient(running.target)

        async def use() -> types.GeneratedImage:
            async with client:
                return await client.generate_image("a")

        assert asyncio.run(use()).data == messages.picture()


async def test_metadata_is_asked_for_in_the_callers_task(service: ScriptedService) -> None:
    """Tasks that share a client each give their calls what their own context holds."""
    parent: ContextVar[str] = ContextVar("parent")

    async def one(name: str) -> None:
        parent.set(name)
        await asyncio.sleep(0)
        await shared.generate_image("a")

    async with AsyncClient(service.target, metadata=lambda: [("traceparent", parent.get())]) as shared:
        await asyncio.gather(one("first"), one("second"))
    assert sorted(metadata["traceparent"] for metadata in service.metadata) == ["first", "second"]
