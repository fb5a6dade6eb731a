"""Both clients and the command line, where a real server keeps a generation's events and has forgotten the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

import imagegen
from imagegen import errors, types
from imagegen.cli import main
from support.live_server import LiveServer, live_server

OLD: types.GenerationKeywords = {"request_id": "old", "on_disconnect": types.OnDisconnect.CONTINUE, "num_images": 2}
NEW: types.GenerationKeywords = {"request_id": "new", "on_disconnect": types.OnDisconnect.CONTINUE}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that remembers one generation."""
    with live_server(tmp_path_factory.mktemp("server"), "--recent-generations=1") as running:
        yield running


@pytest.fixture(scope="module")
def events(server: LiveServer) -> list[types.Event]:
    """What happened in the generation `old`, which a newer one has made the server forget."""
    with imagegen.Client(server.address) as client:
        told = list(client.generate("a cat", **OLD))
        client.generate_image("a cat", **NEW)
        with pytest.raises(errors.NotFoundError):
            client.get("old")
    return told


def images(outcome: types.Event) -> list[tuple[int, bytes]]:
    """Returns the images of a generation that has completed."""
    assert isinstance(outcome, types.Completed)
    return [(image.image_index, image.data) for image in outcome.images]


def last_header(events: list[types.Event]) -> types.ImageHeader:
    """Returns where the image begins that came last; either may."""
    return [event for event in events if isinstance(event, types.ImageHeader)][-1]


def check_rest(rest: list[types.Event], events: list[types.Event]) -> None:
    """Checks what was seen from the last image's header on, and that its plan is not told."""
    header, outcome = last_header(events), rest[-1]
    assert [event.sequence for event in rest] == [e.sequence for e in events if e.sequence >= header.sequence]
    assert images(outcome) == [images(events[-1])[header.image_index]]
    assert isinstance(outcome, types.Completed)
    assert outcome.images[0].plan.model == ""


def test_events_are_watched_for_as_long_as_they_are_kept(server: LiveServer, events: list[types.Event]) -> None:
    """From the start, with the plan that is among them, and from the middle, without."""
    with imagegen.Client(server.address) as client:
        assert list(client.watch("old")) == events
        check_rest(list(client.watch("old", after_sequence=last_header(events).sequence - 1)), events)
        with pytest.raises(errors.NotFoundError):
            list(client.watch("never", after_sequence=5))


async def test_events_are_watched_for_as_long_as_they_are_kept_under_asyncio(
    server: LiveServer, events: list[types.Event]
) -> None:
    """The same."""
    async with imagegen.AsyncClient(server.address) as client:
        assert [event async for event in client.watch("old")] == events
        async with aclosing(client.watch("old", after_sequence=last_header(events).sequence - 1)) as watching:
            check_rest([event async for event in watching], events)
        with pytest.raises(errors.NotFoundError):
            [event async for event in client.watch("never", after_sequence=5)]


@pytest.mark.parametrize("request_id", ["old", "new"])
async def test_after_the_last_event_nothing_comes(
    server: LiveServer, events: list[types.Event], request_id: str
) -> None:
    """That is no error: the server did right."""
    last = events[-1].sequence
    async with imagegen.AsyncClient(server.address) as client:
        if request_id == "new":
            last = [event.sequence async for event in client.watch(request_id)][-1]
        assert [event async for event in client.watch(request_id, after_sequence=last)] == []
    with imagegen.Client(server.address) as blocking:
        assert list(blocking.watch(request_id, after_sequence=last)) == []


def test_the_command_line_watches_them(
    server: LiveServer, events: list[types.Event], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It learns from the events what it asks the server of other generations: how many images, of which type."""
    watch = ["watch", "old", "--server", server.address, "-o"]
    assert main([*watch, str(tmp_path / "out.png")], {}) == 0
    written = [(tmp_path / f"out-{index}.png").read_bytes() for index in range(2)]
    assert [*enumerate(written)] == images(events[-1])
    capsys.readouterr()
    assert main([*watch, str(tmp_path / "out.jpg")], {}) == 2
    assert "has the wrong ending: the images are image/png" in capsys.readouterr().err
    assert main(["watch", "never", "--server", server.address], {}) == 2
    assert "no generation 'never' is known" in capsys.readouterr().err
