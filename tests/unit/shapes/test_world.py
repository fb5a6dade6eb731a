"""The world, its prompts and its judge: what is asked for is drawn, and what is drawn is read."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch

from imagegen_server.shapes import judge, prompts, world
from imagegen_server.shapes.prompts import Request, Wanted
from imagegen_server.shapes.words import COLOURS, POSITIONS, SHAPES, WORDS

pytestmark = pytest.mark.slow

FINISHES = {"smooth": world.SMOOTH, "textured": world.TEXTURED}


def drawn(scene: world.Scene, finish: world.Finish, side: int = world.NATIVE_SIDE) -> npt.NDArray[np.uint8]:
    """Returns a scene's pixels."""
    image = world.render([scene], finish, width=side, height=side)[0]
    pixels: npt.NDArray[np.uint8] = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    return pixels


def single(colour: str, shape: str, background: str, position: str | None = None) -> Request:
    """Returns the plainest request for one object."""
    return prompts.request_for(background, Wanted(colour=colour, shape=shape, position=position))


@pytest.mark.parametrize("side", [64, 128, 256])
@pytest.mark.parametrize("finish", FINISHES)
def test_the_judge_reads_every_render_right(finish: str, side: int) -> None:
    """Whatever a request says, in both finishes and at every size that the card speaks of."""
    rng = np.random.default_rng(side)
    for _ in range(16 if side < 256 else 6):
        request = prompts.sample(rng, held_out=None)
        reading = judge.read(drawn(world.arrange(request, rng), FINISHES[finish], side))
        assert judge.judge(reading, request).right, request.prompt


@pytest.mark.parametrize(("colour", "background"), list(itertools.permutations(COLOURS, 2)))
def test_every_pair_of_colours_is_told_apart(colour: str, background: str) -> None:
    """Soft edges run through other colours; none of them is taken for a thing."""
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        request = single(colour, shape, background)
        reading = judge.read(drawn(world.arrange(request, rng), world.SMOOTH))
        assert [(seen.colour, seen.shape) for seen in reading.things] == [(colour, shape)]
        assert reading.background == background


def test_the_judge_sees_what_is_wrong() -> None:
    """Each part of the verdict fails alone when its part of the request is not met."""
    rng = np.random.default_rng(2)
    reading = judge.read(drawn(world.arrange(single("red", "circle", "blue", "left"), rng), world.TEXTURED))
    assert judge.judge(reading, single("red", "circle", "blue", "left")).right
    assert not judge.judge(reading, single("red", "circle", "green")).background
    assert not judge.judge(reading, single("green", "circle", "blue")).colours
    assert not judge.judge(reading, single("red", "star", "blue")).shapes
    assert judge.judge(reading, single("red", "star", "blue")).colours
    assert not judge.judge(reading, single("red", "circle", "blue", "right")).positions
    assert judge.judge(reading, single("red", "circle", "blue", "right")).shapes
    two = prompts.request_for("blue", Wanted(colour="red", shape="circle"), Wanted(colour="green", shape="star"))
    assert not judge.judge(reading, two).count
    nothing = prompts.request_for("blue")
    assert not judge.judge(reading, nothing).count


def test_the_judge_wants_both_objects_on_their_sides() -> None:
    """Two objects with their places exchanged are wrong, though everything else is right."""
    rng = np.random.default_rng(3)
    first, second = Wanted(colour="red", shape="star"), Wanted(colour="yellow", shape="square")
    for relation, opposite in (("left of", "right of"), ("above", "below")):
        asked = prompts.request_for("black", first, second, relation=relation)
        exchanged = prompts.request_for("black", first, second, relation=opposite)
        reading = judge.read(drawn(world.arrange(asked, rng), world.TEXTURED))
        assert judge.judge(reading, asked).right
        verdict = judge.judge(reading, exchanged)
        assert (verdict.count, verdict.shapes, verdict.positions) == (True, True, False)


def test_noise_is_no_scene() -> None:
    """An image of nothing is not read as an object with a shape."""
    noise = np.random.default_rng(4).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert not judge.judge(judge.read(noise), single("red", "circle", "blue")).right


def test_the_nearest_render_finds_the_finish() -> None:
    """A textured image is nearer to its textured render than its smooth twin is, and within 30 dB of itself."""
    rng = np.random.default_rng(5)
    for _ in range(10):
        scene = world.arrange(prompts.sample(rng, count=1), rng)
        smooth, textured = drawn(scene, world.SMOOTH), drawn(scene, world.TEXTURED)
        _, far = judge.nearest_render(judge.read(smooth), smooth, world.TEXTURED)
        _, near = judge.nearest_render(judge.read(textured), textured, world.TEXTURED)
        assert near > far
        assert near > 28


def test_held_out_combinations_are_a_tenth_and_never_trained_on() -> None:
    """By hash: the same in every run."""
    every = [
        (colour, shape, background) for colour, background in itertools.permutations(COLOURS, 2) for shape in SHAPES
    ]
    held_out = [one for one in every if prompts.is_held_out(*one)]
    assert 0.05 < len(held_out) / len(every) < 0.15
    rng = np.random.default_rng(6)
    trained = [prompts.sample(rng) for _ in range(2000)]
    for request in trained:
        assert not any(prompts.is_held_out(one.colour, one.shape, request.background) for one in request.objects)
    assert all(prompts.sample(rng, count=1, held_out=True).held_out for _ in range(20))


def test_prompts_use_words_that_are_tokens() -> None:
    """Fillers included, but for punctuation and numbers."""
    rng = np.random.default_rng(7)
    for _ in range(2000):
        words = prompts.sample(rng, held_out=None).prompt.replace(",", "").replace(".", "").split()
        assert {word for word in words if word.isalpha()} <= set(WORDS)


def test_terse_requests_say_everything() -> None:
    """Accuracy is measured with prompts that leave no colour open."""
    rng = np.random.default_rng(8)
    for _ in range(200):
        request = prompts.sample(rng, held_out=None, terse=True)
        assert request.background is not None
        assert all(one.colour is not None for one in request.objects)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_position_is_kept(position: str) -> None:
    """What is asked for on the left is drawn there, inside the image."""
    rng = np.random.default_rng(9)
    for shape in SHAPES:
        scene = world.arrange(single("red", shape, "white", position), rng)
        (thing,) = scene.things
        assert thing.x - thing.radius / 2 > 0
        assert thing.x + thing.radius / 2 < 1
        assert judge.judge(judge.read(drawn(scene, world.SMOOTH)), single("red", shape, "white", position)).positions


def test_the_same_seed_draws_the_same_world() -> None:
    """Training and measurement are repeatable."""
    renders = []
    for _ in range(2):
        rng = np.random.default_rng(10)
        scenes = [world.arrange(prompts.sample(rng), rng) for _ in range(4)]
        renders.append(world.render(scenes, world.TEXTURED))
    assert torch.equal(*renders)
    assert renders[0].shape == (4, 3, 128, 128)
    assert 0 <= float(renders[0].min()) <= float(renders[0].max()) <= 1
