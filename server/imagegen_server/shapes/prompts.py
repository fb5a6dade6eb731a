"""What the shapes world can be asked for: a `Request` in words and as a value, drawn at random or enumerated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from imagegen_server.shapes.words import (
    COLOURS,
    FILLERS,
    POSITION_PHRASES,
    POSITIONS,
    RELATION_PHRASES,
    RELATIONS,
    SHAPES,
    SIZE_WORDS,
    SIZES,
    UNORDERED_PHRASES,
)

HELD_OUT_SHARE = 10
"""One in this many combinations of colour, shape and background is never trained on."""

PLACES = {
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}
"""Where a relation puts the first and the second object."""

_TWINS = 0.06
"""The share of "two red circles" among prompts for two objects."""

_Item = TypeVar("_Item")


@dataclass(kw_only=True, frozen=True, slots=True)
class Wanted:
    """An object that is asked for. None: not said."""

    colour: str | None
    shape: str
    size: str | None = None
    position: str | None = None


@dataclass(kw_only=True, frozen=True, slots=True)
class Request:
    """What a prompt asks for: none, one or two objects. Two objects are in the order of the prompt."""

    prompt: str
    background: str | None
    objects: tuple[Wanted, ...]
    held_out: bool
    """Whether it has a combination of colour, shape and background that training never shows."""


def is_held_out(colour: str | None, shape: str, background: str | None) -> bool:
    """Returns whether a combination is kept from training, by its hash: the same in every run and version."""
    if colour is None or background is None:
        return False
    digest = hashlib.sha256(f"{colour} {shape} on {background}".encode()).digest()
    return digest[0] * 256 + digest[1] < 65536 // HELD_OUT_SHARE


def sample(
    rng: np.random.Generator, *, count: int | None = None, held_out: bool | None = False, terse: bool = False
) -> Request:
    """Draws a request.

    `count` fixes the number of objects (0 to 2). `held_out` False avoids the held-out combinations, True insists on
    one (so `count` must not be 0), None takes what comes. `terse` says everything once: every colour and the background
    are named and there are no fillers, which is what accuracy is measured with.
    """
    while True:
        number = int(rng.choice(3, p=(0.06, 0.44, 0.50))) if count is None else count
        request = _draw(rng, number, terse=terse)
        if held_out is None or request.held_out == held_out:
            return request


def request_for(
    background: str | None, *objects: Wanted, rng: np.random.Generator | None = None, relation: str | None = None
) -> Request:
    """Words a request; without `rng`, in the plainest way."""
    words = _Words(rng)
    places = PLACES[relation] if relation else (None, None)
    placed = tuple(
        Wanted(colour=wanted.colour, shape=wanted.shape, size=wanted.size, position=place or wanted.position)
        for wanted, place in zip(objects, places, strict=False)
    )
    return Request(
        prompt=words.sentence(background, objects, relation),
        background=background,
        objects=placed,
        held_out=any(is_held_out(wanted.colour, wanted.shape, background) for wanted in objects),
    )


def _draw(rng: np.random.Generator, number: int, *, terse: bool) -> Request:
    unsaid = 0.0 if terse else 0.06
    background: str | None = _pick(rng, COLOURS)
    others = [colour for colour in COLOURS if colour != background]
    if rng.random() < unsaid and number:
        background = None
    objects = [
        Wanted(colour=None if rng.random() < unsaid else _pick(rng, others), shape=_pick(rng, SHAPES))
        for _ in range(number)
    ]
    relation = None
    if number == 1:
        size = _pick(rng, SIZES) if rng.random() < 0.3 else None
        position = _pick(rng, POSITIONS) if rng.random() < 0.55 else None
        objects = [Wanted(colour=objects[0].colour, shape=objects[0].shape, size=size, position=position)]
    elif number == 2:
        while objects[0] == objects[1]:
            objects[1] = Wanted(colour=_pick(rng, others), shape=_pick(rng, SHAPES))
        if rng.random() < _TWINS:
            objects[1] = objects[0]
        if rng.random() < 0.7 and objects[0] != objects[1]:
            relation = _pick(rng, RELATIONS)
    request = request_for(background, *objects, rng=rng, relation=relation)
    return request if terse or rng.random() < 0.85 else _with_fillers(rng, request)


def _with_fillers(rng: np.random.Generator, request: Request) -> Request:
    before, after = FILLERS
    prompt = request.prompt
    if rng.random() < 0.6:
        prompt = f"{_pick(rng, before)} {prompt}"
    if rng.random() < 0.6:
        prompt = f"{prompt}, {_pick(rng, after)}"
    return Request(prompt=prompt, background=request.background, objects=request.objects, held_out=request.held_out)


class _Words:
    """Chooses among phrasings; always the first without a generator."""

    def __init__(self, rng: np.random.Generator | None) -> None:
        self._rng = rng

    def one(self, *choices: _Item) -> _Item:
        return choices[0] if self._rng is None else choices[int(self._rng.integers(len(choices)))]

    def sentence(self, background: str | None, objects: tuple[Wanted, ...], relation: str | None) -> str:
        if not objects:
            assert background is not None  # noqa: S101 - a picture of nothing on nothing is not drawn
            return self.one(
                f"{_article(background)} {background} background",
                f"a plain {background} background",
                f"an empty {background} background",
                f"{background} background",
                f"only {_article(background)} {background} background",
            )
        content = self._single(objects[0]) if len(objects) == 1 else self._double(objects, relation)
        if background is None:
            return content
        ground = f"{_article(background)} {background} background"
        return self.one(
            f"{content} on {ground}",
            f"{content} on {ground}",
            f"{content}, {background} background",
            f"{ground} with {content}",
            f"on {ground}, {content}",
            f"{background} background, {content}",
            f"there is {content} on {ground}" if "two" not in content else f"there are {content} on {ground}",
            f"{content} on the {background} background",
            f"{content}. the background is {background}",
        )

    def _single(self, wanted: Wanted) -> str:
        content = self._noun(wanted)
        return content if wanted.position is None else f"{content} {self.one(*POSITION_PHRASES[wanted.position])}"

    def _double(self, objects: tuple[Wanted, ...], relation: str | None) -> str:
        first, second = objects
        if relation is None:
            if first == second:
                return f"two {first.colour or ''} {first.shape}s".replace("  ", " ")
            return f"{self._noun(first)} {self.one(*UNORDERED_PHRASES)} {self._noun(second)}"
        if self._rng is not None and self._rng.random() < 0.25:
            places = [self.one(*POSITION_PHRASES[place]) for place in PLACES[relation]]
            return f"{self._noun(first)} {places[0]} and {self._noun(second)} {places[1]}"
        linked = self.one("", "", "", "is ") + self.one(*RELATION_PHRASES[relation])
        return f"{self._noun(first)} {linked} {self._noun(second)}"

    def _noun(self, wanted: Wanted) -> str:
        size = self.one(*SIZE_WORDS[wanted.size]) if wanted.size else None
        words = [word for word in (size, wanted.colour, wanted.shape) if word]
        return " ".join(
            [*self.one([_article(words[0])], [_article(words[0])], [_article(words[0])], ["the"], ["one"], []), *words]
        )


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _pick(rng: np.random.Generator, choices: tuple[_Item, ...] | list[_Item]) -> _Item:
    return choices[int(rng.integers(len(choices)))]


def samples(seed: int, **arguments: object) -> Iterator[Request]:
    """Yields requests without end, the same for the same seed; `arguments` as for `sample`."""
    rng = np.random.default_rng(seed)
    while True:
        yield sample(rng, **arguments)  # type: ignore[arg-type]  # passed through
