"""What the clients do when the server that they talk to drains, or still loads, and another one serves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from imagegen import AsyncClient, Client, errors, types
from imagegen._aio_links import AsyncLinks
from imagegen._elsewhere import MOST_LINKS
from imagegen._health import SERVICE
from imagegen._links import Links
from imagegen.v1 import imagegen_pb2 as pb
from support import messages
from support.cutting_proxy import cutting_proxy
from support.live_server import LiveServer, live_server
from support.load import slow_steps
from support.scripted_service import WAIT, ScriptedService, error_info, refuse, serving
from support.waiting import eventually

RUNNING = "a" + slow_steps(0.5, base=100)
"""A prompt that keeps the device for longer than a test takes, which cancels it."""
LONG: types.GenerationKeywords = {"request_id": "runs", "num_inference_steps": 100}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Two servers with room for one generation each, of which the first drains for as long as something runs."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    arguments = ("--max-running", "1", "--grace-period", "600")
    with live_server(first, *arguments) as one, live_server(second, *arguments) as other:
        yield one, other


def both(servers: tuple[LiveServer, LiveServer]) -> str:
    """Returns a target that names both, the first first."""
    return f"ipv4:{','.join(server.address for server in servers)}"


def taken(server: LiveServer) -> set[str]:
    """Returns the generations that a server took."""
    return {line["request_id"] for line in server.log("accepted")}


def drain(server: LiveServer) -> None:
    """Returns once a server that has something to do drains."""
    server.terminate()
    eventually(lambda: bool(server.log("draining")), "it does not drain")


def test_a_server_that_drains_is_left(servers: tuple[LiveServer, LiveServer]) -> None:
    """What begins goes to the other one, and at once; what runs on the first can be looked at and stopped there."""
    one, other = servers
    with Client(both(servers)) as client:
        events = client.generate(RUNNING, **LONG)
        next(events)
        assert client.healthy()
        drain(one)
        assert client.generate_image("a", request_id="stream").request_id == "stream"
        assert client.render("a", request_id="whole").request_id == "whole"
        told = [type(event) for event in client.generate("a", request_id="events")]
        assert (told[0], told[-1]) == (types.Accepted, types.Completed)
        assert client.healthy()
        assert client.get("runs").state == types.GenerationState.RUNNING
        assert client.get("whole").state == types.GenerationState.COMPLETED
        assert isinstance(next(client.watch("runs")), types.Accepted)
        with pytest.raises(errors.NotFoundError):
            client.get("unknown")
        client.cancel("runs")
        with pytest.raises(errors.GenerationCancelledError):
            list(events)
        assert one.wait() == 0
        with pytest.raises(errors.NotFoundError):
            client.get("runs")
        assert client.generate_image("a", request_id="after").request_id == "after"
    assert taken(one) == {"runs"}
    assert taken(other) == {"stream", "whole", "events", "after"}
    assert len(one.log("rejected")) == 1


async def test_a_server_that_drains_is_left_under_asyncio(servers: tuple[LiveServer, LiveServer]) -> None:
    """The same."""
    one, other = servers
    async with AsyncClient(both(servers)) as client:
        events = client.generate(RUNNING, **LONG)
        await anext(events)
        drain(one)
        assert await client.healthy()
        assert (await client.generate_image("a", request_id="stream")).request_id == "stream"
        assert (await client.render("a", request_id="whole")).request_id == "whole"
        told = [type(event) async for event in client.generate("a", request_id="events")]
        assert (told[0], told[-1]) == (types.Accepted, types.Completed)
        assert (await client.get("runs")).state == types.GenerationState.RUNNING
        watching = client.watch("runs")
        assert isinstance(await anext(watching), types.Accepted)
        await watching.aclose()
        with pytest.raises(errors.NotFoundError):
            await client.get("unknown")
        await client.cancel("runs")
        with pytest.raises(errors.GenerationCancelledError):
            [event async for event in events]
        assert one.wait() == 0
        with pytest.raises(errors.NotFoundError):
            await client.get("runs")
    assert taken(one) == {"runs"}
    assert taken(other) == {"stream", "whole", "events"}


def test_what_waits_is_asked_for_elsewhere(servers: tuple[LiveServer, LiveServer]) -> None:
    """Where nothing was told to the caller yet: images alone. A caller that saw events learns that they ended."""
    one, other = servers
    with Client(both(servers)) as client, ThreadPoolExecutor(2) as callers:
        running = client.generate(RUNNING, **LONG)
        next(running)
        calls: list[Future[object]] = [
            callers.submit(client.generate_images, "a", request_id="images"),
            callers.submit(client.render, "a", request_id="whole"),
        ]
        watched = client.generate("a", request_id="watched")
        next(watched)
        eventually(lambda: len(taken(one)) == 4, "they do not wait")
        drain(one)
        for call in calls:
            call.result()
        with pytest.raises(errors.ServiceUnavailableError) as caught:
            list(watched)
        assert (caught.value.details.reason, caught.value.retry_after) == ("DRAINING", 5.0)
        client.cancel("runs")
        running.close()
    assert taken(other) == {"images", "whole"}


def test_where_there_is_no_other_the_refusal_is_told(tmp_path: Path) -> None:
    """At once, with the time after which a new attempt makes sense; what runs there stays in reach."""
    with live_server(tmp_path, "--grace-period", "600") as server, Client(server.address) as client:
        events = client.generate(RUNNING, **LONG)
        next(events)
        drain(server)
        with pytest.raises(errors.ServiceUnavailableError) as caught:
            client.generate_image("a", request_id="late")
        assert (caught.value.details.reason, caught.value.retry_after) == ("DRAINING", 5.0)
        assert not client.healthy()
        client.cancel("runs")
        with pytest.raises(errors.GenerationCancelledError):
            list(events)
        assert len(server.log("rejected")) == 1


def test_a_single_attempt_moves_the_next_call(servers: tuple[LiveServer, LiveServer]) -> None:
    """One attempt is one attempt; the one after it is made where a server serves."""
    one, _ = servers
    with Client(both(servers), max_attempts=1) as client:
        events = client.generate(RUNNING, **LONG)
        next(events)
        drain(one)
        with pytest.raises(errors.ServiceUnavailableError):
            client.generate_image("a")
        assert client.generate_image("a", request_id="next").request_id == "next"
        client.cancel("runs")
        events.close()


class Breaking(ScriptedService):
    """Drains: goes on with a generation that outlives its connection, which breaks when told so, and takes no other."""

    def __init__(self) -> None:
        super().__init__()
        self.script = self._begin
        self.broken = threading.Event()

    def WatchGeneration(  # noqa: N802 (the contract's name)
        self, request: pb.WatchGenerationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchGenerationResponse]:
        """Sends what follows the first event."""
        _, *rest = messages.generation(pb.GenerateImageRequest(request_id=request.request_id, prompt="a"))
        for response in rest:
            yield pb.WatchGenerationResponse(response=response)

    def RenderImage(  # noqa: N802 (the contract's name)
        self, request: pb.RenderImageRequest, context: grpc.ServicerContext
    ) -> pb.RenderImageResponse:
        """Takes none."""
        self.metadata.append(dict(context.invocation_metadata()))
        refuse(context, grpc.StatusCode.UNAVAILABLE, "it drains", error_info("DRAINING"), pushback=-1)

    def _begin(
        self, request: pb.GenerateImageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateImageResponse]:
        if request.on_disconnect != pb.ON_DISCONNECT_CONTINUE:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "it drains", error_info("DRAINING"), pushback=-1)
        yield messages.accepted(request)
        self.broken.wait(WAIT)
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")  # without ErrorInfo: the transport's own words


@pytest.fixture
def scripted() -> Iterator[tuple[Breaking, ScriptedService]]:
    """A server that drains, and one that serves and has no generation."""
    with serving(one := Breaking()), serving(ScriptedService()) as other:
        yield one, other


def both_scripted(services: tuple[ScriptedService, ScriptedService]) -> str:
    """Returns a target that names both, the first first."""
    return f"ipv4:{','.join(service.target for service in services)}"


CONTINUE = types.OnDisconnect.CONTINUE


def test_what_outlives_its_connection_is_taken_up_where_it_is(scripted: tuple[Breaking, ScriptedService]) -> None:
    """Although what begins goes to another server by then."""
    one, other = scripted
    with Client(both_scripted(scripted)) as client:
        events = client.generate("a", on_disconnect=CONTINUE)
        next(events)
        client.generate_image("a")
        one.broken.set()
        assert isinstance(list(events)[-1], types.Completed)
    assert len(other.requests) == 1


async def test_what_outlives_its_connection_is_taken_up_where_it_is_under_asyncio(
    scripted: tuple[Breaking, ScriptedService],
) -> None:
    """The same."""
    one, other = scripted
    async with AsyncClient(both_scripted(scripted)) as client:
        events = client.generate("a", on_disconnect=CONTINUE)
        await anext(events)
        await client.generate_image("a")
        one.broken.set()
        assert isinstance([event async for event in events][-1], types.Completed)
    assert len(other.requests) == 1


async def test_a_server_is_told_that_a_refusal_is_followed_elsewhere(
    scripted: tuple[Breaking, ScriptedService],
) -> None:
    """So that it forbids gRPC to ask again there; by both clients, with both calls that generate."""
    one, _ = scripted
    with Client(one.target, max_attempts=1) as client:
        for call in (client.generate_image, client.render):
            with pytest.raises(errors.ServiceUnavailableError):
                call("a")
    async with AsyncClient(one.target, max_attempts=1) as other:
        for asked in (other.generate_image("a"), other.render("a")):
            with pytest.raises(errors.ServiceUnavailableError):
                await asked
    assert [said.get("x-goes-elsewhere") for said in one.metadata] == ["DRAINING"] * 4


async def test_what_was_told_is_not_told_again_under_asyncio(scripted: tuple[Breaking, ScriptedService]) -> None:
    """A caller that saw events learns that they ended; another server would begin with the first."""
    one, other = scripted

    def ends(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        yield messages.accepted(request)
        refuse(context, grpc.StatusCode.UNAVAILABLE, "it drains", error_info("DRAINING"))

    one.script = ends
    async with AsyncClient(both_scripted(scripted)) as client:
        events = client.generate("a")
        assert isinstance(await anext(events), types.Accepted)
        with pytest.raises(errors.ServiceUnavailableError, match="it drains"):
            await anext(events)
    assert other.requests == []


def links_to(target: str) -> dict[str, Any]:
    """Returns the arguments of a client's links, without retries or anything to show."""
    return {"target": target, "metadata": tuple, "options": [("grpc.enable_retries", 0)], "credentials": None}


async def test_who_leaves_a_server_later_follows_who_left_it_first(service: ScriptedService) -> None:
    """Two calls that one server refuses do not leave the next one too."""
    links, others = Links(**links_to(service.target)), AsyncLinks(**links_to(service.target))
    left, abandoned = links.current, others.current
    assert links.leave(left)
    assert await others.leave(abandoned)
    new, newer = links.current, others.current
    assert links.leave(left)
    assert await others.leave(abandoned)
    assert (links.current, others.current) == (new, newer)
    assert new is not left
    assert newer is not abandoned
    links.close()
    await others.close()


async def test_closing_a_client_closes_its_connections_to_servers_that_were_left(service: ScriptedService) -> None:
    """What it has begun there ends with it."""
    links, others = Links(**links_to(service.target)), AsyncLinks(**links_to(service.target))
    left, abandoned = links.current, others.current
    assert links.leave(left)
    assert await others.leave(abandoned)
    new, newer = links.current, others.current
    links.close()
    await others.close()
    for link in (left, new):
        with pytest.raises(ValueError, match="closed"):
            link.check(SERVICE)
    for one in (abandoned, newer):
        with pytest.raises(grpc.aio.UsageError, match="closed"):
            await one.check(SERVICE)


async def test_connections_to_servers_that_were_left_are_few(service: ScriptedService) -> None:
    """However often a server is left, in a client that lives for weeks; the oldest are closed."""
    with cutting_proxy(int(service.target.rpartition(":")[2])) as proxy:
        links, others = Links(**links_to(proxy.target)), AsyncLinks(**links_to(proxy.target))
        first, oldest = links.current, others.current
        links.call(first.check, SERVICE)
        await others.call(oldest.check, SERVICE)
        for _ in range(MOST_LINKS):
            assert links.leave(links.current)
            assert await others.leave(others.current)
        assert proxy.connections == 2 * (MOST_LINKS + 1), "each is one of its own"
        with pytest.raises(ValueError, match="closed"):
            first.check(SERVICE)
        with pytest.raises(grpc.aio.UsageError, match="closed"):
            await oldest.check(SERVICE)
        links.close()
        await others.close()
