"""Generations behind an Envoy with several servers: found on the one that has them, and taken up again there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import imagegen
from imagegen import errors, types
from imagegen_server.http_edge.envoy import Envoy
from support.cutting_proxy import CuttingProxy, cutting_proxy
from support.http import fetch
from support.http_edge import in_front_of, post
from support.live_server import LiveServer, live_server
from support.waiting import eventually

SLOW = " ".join(f"{{base:stall=0.2@{step}}}" for step in range(50))
"""Ten seconds that can be stopped after each step."""
STEPS: types.GenerationKeywords = {"num_inference_steps": 20, "seed": 3, "min_progress_interval": 0.0}
LASTING: types.GenerationKeywords = {**STEPS, "on_disconnect": types.OnDisconnect.CONTINUE}
NOISE = "a cat {noise}"
TRIES = 10
"""Lookups of one id; of two servers that are drawn at random, the wrong one is hardly missed by all of them."""


def named(request_id: str) -> types.GenerationKeywords:
    """Returns the options of a generation with an id, which ends with its call."""
    return {**STEPS, "request_id": request_id}


class Site:
    """Two servers on the fake model behind one Envoy, each behind a network that breaks."""

    def __init__(self, servers: list[LiveServer], networks: list[CuttingProxy], edge: Envoy) -> None:
        self.servers = servers
        self.edge = edge
        self.target = f"127.0.0.1:{edge.port}"
        self._networks = networks

    def cut(self) -> None:
        """Resets every connection between Envoy and the servers."""
        for network in self._networks:
            network.cut()

    def owner(self, request_id: str) -> LiveServer:
        """Returns the server that has a generation."""
        (found,) = (each for each in self.servers if self._has(each, request_id))
        return found

    def _has(self, server: LiveServer, request_id: str) -> bool:
        with imagegen.Client(server.address) as client:
            try:
                client.get(request_id)
            except errors.NotFoundError:
                return False
            return True


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two servers, a generation of a second."""
    with ExitStack() as stack:
        yield _site(stack, tmp_path_factory.mktemp("site"))


def _site(stack: ExitStack, directory: Path) -> Site:
    servers, networks = [], []
    for name in ("one", "two"):
        (directory / name).mkdir()
        arguments = ("--fake-script", '{"evaluation": 0.02}', "--grace-period", "20")
        servers.append(stack.enter_context(live_server(directory / name, *arguments)))
        networks.append(stack.enter_context(cutting_proxy(servers[-1].port)))
    edge = stack.enter_context(in_front_of(*(network.target for network in networks)))
    return Site(servers, networks, edge)


@pytest.fixture
def client(site: Site) -> Iterator[imagegen.Client]:
    """A client of Envoy."""
    with imagegen.Client(site.target) as client:
        yield client


@pytest.mark.parametrize("over", ["grpc", "http"])
def test_a_generation_is_found_on_the_server_that_has_it(site: Site, client: imagegen.Client, over: str) -> None:
    """State, events and cancelling, over gRPC and over HTTP."""
    name = f"found-over-{over}"
    url = f"{site.edge.url}/api/media/generations/{name}"
    with closing(client.generate(SLOW, **named(name))) as events:
        first = next(events)
        if over == "grpc":
            assert {client.get(name).state for _ in range(TRIES)} == {types.GenerationState.RUNNING}
            for _ in range(TRIES):
                with closing(client.watch(name)) as watching:
                    assert next(watching) == first
            client.cancel(name)
        else:
            assert {fetch(url).status for _ in range(TRIES)} == {200}
            assert post(f"{url}/cancel", {}).status == 200
        with pytest.raises(errors.GenerationCancelledError):
            list(events)
    reasons = {fetch(f"{url}/events").headers["x-error-reason"] for _ in range(TRIES)}
    assert reasons == {"EVENTS_NOT_KEPT"}  # which only who knows the generation says


def test_an_id_that_no_server_knows_is_unknown(site: Site, client: imagegen.Client) -> None:
    """Each of them was asked."""
    with pytest.raises(errors.NotFoundError):
        client.get("never")
    with pytest.raises(errors.NotFoundError):
        list(client.watch("never"))
    unknown = fetch(f"{site.edge.url}/api/media/generations/never")
    assert (unknown.status, unknown.details()["ErrorInfo"]["reason"]) == (404, "GENERATION_NOT_FOUND")


def test_the_stream_is_one_though_servers_vanish_behind_envoy(site: Site, client: imagegen.Client) -> None:
    """Every event once and in order, and the image byte for byte: the client finds the server that goes on."""
    expected = client.generate_image(NOISE, **STEPS).data
    kinds: list[str] = []
    events = []
    for event in client.generate(NOISE, **LASTING):
        events.append(event)
        name = type(event).__name__
        if isinstance(event, types.Accepted | types.StepProgress) and name not in kinds:
            kinds.append(name)
            site.cut()
    assert len(kinds) == 2
    assert [event.image.data for event in events if isinstance(event, types.ImageReceived)] == [expected]
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert list(client.watch(events[0].request_id)) == events


async def test_the_asyncio_stream_is_one_too(site: Site) -> None:
    """The same."""
    events = []
    async with imagegen.AsyncClient(site.target) as client:
        async for event in client.generate(NOISE, **LASTING):
            events.append(event)
            if len(events) == 8:
                site.cut()
    assert isinstance(events[-1], types.Completed)
    assert len({event.sequence for event in events}) == len(events)


def test_what_ends_with_its_call_is_told_as_a_lost_connection(site: Site, client: imagegen.Client) -> None:
    """Neither made again nor taken for the server's failure."""
    events = client.generate(SLOW, **named("ended"))
    next(events)
    site.cut()
    with pytest.raises(errors.ConnectionBrokenError):
        list(events)
    eventually(lambda: client.get("ended").state is types.GenerationState.CANCELLED, "it was not stopped")
    accepted = [line for each in site.servers for line in each.log("accepted") if line["request_id"] == "ended"]
    assert len(accepted) == 1


def test_what_runs_on_a_server_that_drains_is_found(tmp_path: Path) -> None:
    """It gets no new calls, but its own can be watched and stopped; what another has is found while one is gone."""
    with ExitStack() as stack:
        site = _site(stack, tmp_path)
        client = stack.enter_context(imagegen.Client(site.target))
        events = stack.enter_context(closing(client.generate(SLOW, **named("drains"))))
        next(events)
        owner = site.owner("drains")
        owner.terminate()

        def serving() -> bool:
            answers = [fetch(f"{site.edge.url}/api/media/server") for _ in range(TRIES)]
            return all(answer.json["state"] == "SERVER_STATE_SERVING" for answer in answers)

        eventually(serving, "Envoy goes on to give it calls")
        assert {client.get("drains").state for _ in range(TRIES)} == {types.GenerationState.RUNNING}
        client.cancel("drains")
        with pytest.raises(errors.GenerationCancelledError):
            list(events)
        owner.wait()
        lasting = client.generate(SLOW, **named("stays"))
        with closing(lasting):
            next(lasting)
            assert {client.get("stays").state for _ in range(TRIES)} == {types.GenerationState.RUNNING}
