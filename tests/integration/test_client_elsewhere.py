"""What the clients do when the server that they talk to drains, or still loads, and another one serves."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from imagegen import AsyncClient, Client, errors, types
from support.live_server import LiveServer, live_server
from support.load import slow_steps
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
