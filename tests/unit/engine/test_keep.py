"""What the engine does where results are kept: the images go out at once, the end waits for where they are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from imagegen_server.core import EncodedImage, GenerationRequest, KeepFailure
from imagegen_server.engine import Event, Finished, ImageKept, ImageReady
from imagegen_server.errors import Cancelled
from support.simulation import World, make_request


@dataclass
class Shelf:
    """Keeps nothing until it is told to."""

    asked: list[tuple[str, int, bool, float]] = field(default_factory=list)
    answers: list[Callable[[str, KeepFailure | None], None]] = field(default_factory=list)

    def __call__(
        self,
        image: EncodedImage,
        request: GenerationRequest,
        image_index: int,
        *,
        refined: bool,
        patience: float,
        done: Callable[[str, KeepFailure | None], None],
    ) -> None:
        self.asked.append((request.request_id, image_index, refined, patience))
        self.answers.append(done)


def events(world: World) -> list[Event]:
    """Returns what the generation's caller has seen of the end of its story."""
    world.read()
    return [e.event for e in world.seen["r"] if isinstance(e.event, ImageReady | ImageKept | Finished)]


def begin(shelf: Shelf, *, deadline: float | None = None, prompt: str = "a circle") -> World:
    """Runs a generation of two images until nothing is left but to keep them."""
    world = World(keep=shelf)
    world.submit(make_request("r", num_images=2, prompt=prompt), deadline=deadline)
    while world.engine.turn():
        world.read()
    return world


def test_images_do_not_wait_and_the_end_does() -> None:
    """Both images can be sent while neither is kept; the last answer, in any order, is the end."""
    shelf = Shelf()
    world = begin(shelf)
    ready = events(world)
    assert [type(event) for event in ready] == [ImageReady, ImageReady]
    shelf.answers[1]("http://x/1", None)
    assert events(world)[2:] == [ImageKept(image_index=1, url="http://x/1")]
    shelf.answers[0]("", KeepFailure.FULL)
    kept, finished = events(world)[3:]
    assert kept == ImageKept(image_index=0, url="", failure=KeepFailure.FULL)
    assert isinstance(finished, Finished)
    assert finished.error is None
    world.check_balance()


def test_what_is_kept_is_named_and_described() -> None:
    """The keeper learns which image of which generation it is, and whose result it shows."""
    shelf = Shelf()
    begin(shelf, prompt="{refiner:nan}")
    assert shelf.asked == [("r", 0, False, float("inf")), ("r", 1, False, float("inf"))]


def test_a_caller_in_a_hurry_waits_for_part_of_its_time_only() -> None:
    """Keeping may take half of what is left until the deadline, so that it does not make the call fail."""
    shelf = Shelf()
    world = begin(shelf, deadline=100.0)
    left = 100.0 - (world.clock.now - 1000.0)
    assert [asked[3] for asked in shelf.asked] == pytest.approx([left / 2, left / 2], abs=0.1)


def test_an_answer_after_the_end_is_too_late() -> None:
    """A generation that was cancelled while its images were being kept has ended; nothing follows."""
    shelf = Shelf()
    world = begin(shelf)
    world.engine.cancel("r")
    shelf.answers[0]("http://x/0", None)
    shelf.answers[1]("http://x/1", None)
    last = events(world)[-1]
    assert isinstance(last, Finished)
    assert isinstance(last.error, Cancelled)
    assert not any(isinstance(event, ImageKept) for event in events(world))
    world.check_balance()
