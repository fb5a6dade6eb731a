"""Both clients and the command line against a real server behind a network that breaks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import aclosing, closing, suppress
from pathlib import Path
from typing import Any

import pytest

import imagegen
from imagegen import errors, types
from imagegen._aio_calls import AsyncCalls
from imagegen._calls import Calls
from imagegen._channel import Connection, channel_options, metadata_source
from imagegen._request import build_request
from imagegen.cli import main
from support.cutting_proxy import CuttingProxy, cutting_proxy
from support.live_server import LiveServer, live_server
from support.waiting import eventually

STEPS: types.GenerationKeywords = {"num_inference_steps": 20, "seed": 3, "min_progress_interval": 0.0}
LASTING: types.GenerationKeywords = {**STEPS, "on_disconnect": types.OnDisconnect.CONTINUE}
FAKE = '{"evaluation": 0.02}'
NOISE = "a cat {noise}"
"""Files that do not compress, of several chunks at this size."""
ONCE: types.GenerationKeywords = {**STEPS, "width": 1024, "height": 1024}
LARGE: types.GenerationKeywords = {**ONCE, **LASTING}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the fake model, a generation of a second."""
    with live_server(tmp_path_factory.mktemp("server"), f"--fake-script={FAKE}") as running:
        yield running


@pytest.fixture
def proxy(server: LiveServer) -> Iterator[CuttingProxy]:
    """The network in front of it."""
    with cutting_proxy(server.port) as between:
        yield between


def files(events: list[types.Event]) -> list[bytes]:
    """Returns the images that arrived."""
    return [event.image.data for event in events if isinstance(event, types.ImageReceived)]


@pytest.fixture(scope="module")
def expected(server: LiveServer) -> bytes:
    """What the generation gives without a break."""
    with imagegen.Client(server.address) as client:
        return client.generate_image(NOISE, **ONCE).data


def cut_at(proxy: CuttingProxy, event: types.Event, kinds: tuple[type, ...], cuts: list[str]) -> None:
    """Cuts the network when an event of these kinds comes for the first time."""
    name = type(event).__name__
    if isinstance(event, kinds) and name not in cuts:
        cuts.append(name)
        proxy.cut()


BREAKS = (types.Accepted, types.StepProgress, types.ImageHeader)


def test_the_stream_is_one_through_lost_connections(proxy: CuttingProxy, expected: bytes) -> None:
    """Whoever iterates sees every event once and in order, and the image byte for byte, over four connections."""
    cuts: list[str] = []
    events = []
    with imagegen.Client(proxy.target) as client:
        for event in client.generate(NOISE, **LARGE):
            events.append(event)
            cut_at(proxy, event, BREAKS, cuts)
        (again,) = [list(client.watch(events[0].request_id))]
    assert len(cuts) == 3
    assert proxy.connections >= 3
    assert files(events) == [expected]
    assert again == events
    assert isinstance(events[-1], types.Completed)
    sequences = [event.sequence for event in events]
    assert sequences == sorted(sequences)


async def test_the_asyncio_stream_is_one_too(proxy: CuttingProxy, expected: bytes) -> None:
    """The same, without blocking the loop; and images alone."""
    cuts: list[str] = []
    events = []
    async with imagegen.AsyncClient(proxy.target) as client:
        async for event in client.generate(NOISE, **LARGE):
            events.append(event)
            cut_at(proxy, event, BREAKS, cuts)
        again = [event async for event in client.watch(events[0].request_id)]
        timer = threading.Timer(0.3, proxy.cut)
        timer.start()
        (image,) = await client.generate_images(NOISE, **LARGE)
        timer.join()
    assert len(cuts) == 3
    assert files(events) == [expected] == [image.data]
    assert again == events


def attentive(target: str) -> Connection:
    """Returns a connection whose calls notice a silent network within a second, with either client."""
    options = channel_options(target, 4, keepalive_time=0.5, keepalive_timeout=0.5)
    return Connection(target=target, options=options, credentials=None, metadata=metadata_source(()), max_attempts=4)


def test_a_network_that_falls_silent_is_noticed(proxy: CuttingProxy, expected: bytes) -> None:
    """A connection that is open and says nothing, as behind a router that forgot it, is given up and replaced."""
    calls = Calls(attentive(proxy.target))
    events = []
    with closing(calls), closing(calls.events(build_request(NOISE, {**LASTING, **LARGE}), 30.0)) as stream:
        for event in stream:
            events.append(event)
            if len(events) == 4:
                proxy.silence()
    assert proxy.connections == 2
    assert files(events) == [expected]


async def test_a_network_that_falls_silent_is_noticed_under_asyncio(proxy: CuttingProxy, expected: bytes) -> None:
    """The same, without blocking the loop."""
    calls = AsyncCalls(attentive(proxy.target))
    events = []
    async with aclosing(calls.events(build_request(NOISE, {**LASTING, **LARGE}), 30.0)) as stream:
        async for event in stream:
            events.append(event)
            if len(events) == 4:
                proxy.silence()
    await calls.close()
    assert proxy.connections == 2
    assert files(events) == [expected]


def test_without_asking_a_lost_connection_is_an_error(proxy: CuttingProxy) -> None:
    """The default is as before: the connection and the generation are gone."""
    with imagegen.Client(proxy.target, max_attempts=1) as client:
        events = client.generate(NOISE, **STEPS)
        request_id = next(events).request_id
        proxy.cut()
        with pytest.raises(errors.UnreachableError):
            list(events)

        def stopped() -> bool:
            with suppress(errors.UnreachableError):  # the first call may be what finds the connection lost
                return client.get(request_id).state == types.GenerationState.CANCELLED
            return False

        eventually(stopped, "it was not stopped")


def test_a_network_that_stays_away_is_an_error_in_time(proxy: CuttingProxy) -> None:
    """The call's own time bounds the attempts."""
    with imagegen.Client(proxy.target, max_attempts=1) as client:
        events = client.generate(NOISE, timeout=2.0, **LASTING)
        next(events)
        proxy.refusing = True
        proxy.cut()
        with pytest.raises((errors.UnreachableError, errors.DeadlineExceededError)):
            list(events)


def test_watching_begins_where_it_is_told(server: LiveServer) -> None:
    """After a sequence, only later events come, and the outcome has the images that came with them."""
    two: types.GenerationKeywords = {**LASTING, "num_images": 2}
    with imagegen.Client(server.address) as client:
        events = list(client.generate(NOISE, **two))
        request_id = events[0].request_id
        headers = [event for event in events if isinstance(event, types.ImageHeader)]
        second = headers[1]
        rest = list(client.watch(request_id, after_sequence=second.sequence - 1))
        assert rest[:-1] == [event for event in events[:-1] if event.sequence >= second.sequence]
        completed = rest[-1]
        assert isinstance(completed, types.Completed)
        assert [image.image_index for image in completed.images] == [second.image_index]
        middle = list(client.watch(request_id, after_sequence=second.sequence))
        assert not files(middle)  # its header came before
        with pytest.raises(errors.InvalidRequestError):
            list(client.watch(request_id, after_sequence=10**6))
        with pytest.raises(errors.NotFoundError):
            list(client.watch("never"))


def test_leaving_leaves_it_running_and_cancel_stops_it(server: LiveServer) -> None:
    """Closing the events ends the call only; cancelling by id ends the generation, and its watcher is told."""
    plainly: types.GenerationKeywords = {**STEPS, "request_id": "plain"}
    with imagegen.Client(server.address) as client:
        with closing(client.generate(NOISE, **LASTING)) as events:
            request_id = next(events).request_id
        found = client.get(request_id)
        assert found.state in (types.GenerationState.QUEUED, types.GenerationState.RUNNING)
        watching = client.watch(request_id)
        next(watching)
        client.cancel(request_id)
        with pytest.raises(errors.GenerationCancelledError):
            list(watching)
        plain = client.generate_images(NOISE, **plainly)
        assert len(plain) == 1
        with pytest.raises(errors.EventsNotKeptError):
            list(client.watch("plain"))


def test_every_call_is_counted_by_its_method(server: LiveServer) -> None:
    """The metrics of calls have the new methods."""
    counted: types.GenerationKeywords = {**LASTING, "request_id": "counted"}
    with imagegen.Client(server.address) as client:
        before = server.metrics()
        client.render(NOISE, **counted)
        client.get("counted")
        list(client.watch("counted"))
        after = server.metrics()
    for method in ("RenderImage", "GetGeneration", "WatchGeneration"):
        name, labels = "grpc_server_handled_total", {"grpc_method": method, "grpc_code": "OK"}
        assert after.total(name, **labels) == before.total(name, **labels) + 1
    sent = {"grpc_method": "WatchGeneration"}
    assert after.total("grpc_server_msg_sent_total", **sent) > before.total("grpc_server_msg_sent_total", **sent) + 10


def test_the_command_line_takes_it_up(
    server: LiveServer, proxy: CuttingProxy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`generate --keep-running` lasts, `watch` writes the same file later, `get` says how it was."""

    def run(*words: str) -> tuple[int, Any]:
        code = main([*words, "--server", server.address, "--json"], {})
        return code, json.loads(capsys.readouterr().out)

    first, second = tmp_path / "first.png", tmp_path / "second.png"
    code, made = run("generate", NOISE, "--seed", "3", "--keep-running", "--request-id", "kept", "-o", str(first))
    assert code == 0
    code, seen = run("watch", "kept", "-o", str(second))
    assert (code, first.read_bytes()) == (0, second.read_bytes())
    assert seen["images"][0] | {"file": ""} == made["images"][0] | {"file": ""}
    code, found = run("get", "kept")
    assert (code, found["state"], found["images"][0]["sha256"]) == (0, "completed", made["images"][0]["sha256"])
    assert main(["get", "kept", "--server", server.address], {}) == 0
    assert "kept: completed" in capsys.readouterr().out
    code, wrong = run("watch", "kept", "-o", str(tmp_path / "x.jpg"))
    assert (code, wrong["error"]["type"]) == (2, "UsageError")
    assert run("watch", "never")[0] == run("get", "never")[0] == 2
