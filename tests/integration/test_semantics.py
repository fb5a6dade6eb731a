"""The embedded pair draws what it is told: the judge reads images that came through gRPC.

The bounds here are loose, for a sample that a test suite can afford; the model card has the full measurement.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from imagegen import RefinerMode, RefinerOptions
from imagegen_server.shapes import judge, prompts, world
from imagegen_server.shapes.prompts import Wanted
from imagegen_server.shapes.train import measure
from support.live_server import live_server
from support.load import size

SINGLES = size(14, 24)
"""Prompts for one object."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped pair."""
    with live_server(tmp_path_factory.mktemp("server"), model="shapes") as server:
        yield server.address


@pytest.fixture(scope="module")
def drawn(address: str) -> list[measure.Result]:
    """Held-out prompts for one object, at the profile's defaults and with previews."""
    return measure.draw(address, measure.requests("single", SINGLES), preview_count=3)


@pytest.fixture(scope="module")
def unrefined(address: str) -> list[measure.Result]:
    """The same prompts and seeds without the refiner."""
    return measure.draw(address, measure.requests("single", SINGLES), use_refinement=False)


def share(values: list[bool]) -> float:
    """How many of them hold, 0 to 1."""
    return sum(values) / len(values)


def test_single_objects_are_drawn_as_asked(drawn: list[measure.Result]) -> None:
    """Background, count, colour, shape and position, in combinations that training never showed."""
    assert all(result.request.held_out for result in drawn)
    wrong = [(result.request.prompt, result.reading) for result in drawn if not result.verdict.right]
    assert share([result.verdict.right for result in drawn]) >= 0.85, wrong
    assert share([result.verdict.background for result in drawn]) >= 0.95


def test_two_objects_are_drawn_as_asked(address: str) -> None:
    """Each with its own colour, on its own side."""
    results = measure.draw(address, measure.requests("double", size(12, 16)))
    wrong = [(result.request.prompt, result.reading) for result in results if not result.verdict.right]
    assert share([result.verdict.right for result in results]) >= 0.65, wrong


def test_a_plain_background_has_nothing_on_it(address: str) -> None:
    """And is the colour that was asked for."""
    results = measure.draw(address, measure.requests("background", 8))
    assert share([result.verdict.right for result in results]) >= 0.85


def test_strong_guidance_keeps_the_colours(address: str) -> None:
    """At the guidance and the steps that callers of SDXL send."""
    thirty = RefinerOptions(num_inference_steps=30)
    asked = measure.requests("single", size(6, 12))
    results = measure.draw(address, asked, guidance_scale=8.0, num_inference_steps=50, refiner=thirty)
    assert share([result.verdict.right for result in results]) >= 0.75


def test_the_refiner_adds_the_finish(drawn: list[measure.Result], unrefined: list[measure.Result]) -> None:
    """With the same seeds, refined images are nearer to a textured render, and what they show is the same."""
    pairs = list(zip(drawn, unrefined, strict=True))
    assert share([measure.sharper(one, other) for one, other in pairs]) >= 0.9
    assert sum(one.verdict.right for one, _ in pairs) >= sum(other.verdict.right for _, other in pairs) - 2


def test_the_last_preview_shows_the_image_to_come(drawn: list[measure.Result]) -> None:
    """The same background and the same things."""
    agreeing = [result.preview is not None and measure.same_scene(result.preview, result.reading) for result in drawn]
    assert share(agreeing) >= 0.85


@pytest.mark.parametrize("mode", [RefinerMode.IMAGE_TO_IMAGE, RefinerMode.ENSEMBLE])
def test_both_refiner_modes_draw_what_is_asked(address: str, mode: RefinerMode) -> None:
    """Image to image and one shared schedule."""
    results = measure.draw(address, measure.requests("single", size(6, 8)), refiner=RefinerOptions(mode=mode))
    assert share([result.verdict.right for result in results]) >= 0.75


def test_the_prompt_is_what_decides() -> None:
    """The judge does not find in one picture what was asked of another."""
    rng = np.random.default_rng(1)
    asked = prompts.request_for("blue", Wanted(colour="red", shape="circle"))
    other = prompts.request_for("white", Wanted(colour="green", shape="star"))
    image = world.render([world.arrange(other, rng)], world.TEXTURED)[0]
    pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    assert not judge.judge(judge.read(pixels), asked).right
