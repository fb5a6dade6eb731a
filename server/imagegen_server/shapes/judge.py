"""The judge: reads background, count, colours, shapes and places out of an image's pixels, and compares with a request.

It knows nothing of models: it is geometry and nearest colours, and it is exact on the world's own renders.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from imagegen_server.shapes import world
from imagegen_server.shapes.prompts import Request, Wanted
from imagegen_server.shapes.words import COLOURS, SHAPES

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), sRGB."""
_Mask = npt.NDArray[np.bool_]

_PALETTE = np.array([world.PALETTE[name] for name in COLOURS], dtype=np.float32)
_BORDER = 0.04
"""Width of the frame in which the background is read, as a fraction of the shorter side."""
_CONTRAST = 55.0
"""How far in RGB a pixel must be from the background to belong to a thing."""
_LEAST_AREA = 0.012
"""Of the square on the shorter side; the smallest shape of the world has 0.045."""
_CORE = 0.012
"""How far from its edge a thing's colour is read, as a fraction of the shorter side."""
_LEAST_MATCH = 0.72
"""Intersection over union with the best of the four shapes, below which a thing has no shape."""
_OFF_CENTRE = 0.09
"""Distance from the middle beyond which a thing is somewhere, and within which it is in the centre."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Seen:
    """A thing in an image. Lengths are fractions: of width and height for x and y, of the shorter side for radius."""

    colour: str
    shape: str
    """Empty: none of the four."""
    x: float
    y: float
    radius: float
    """Of the disc with the same area."""
    match: float
    """Intersection over union with the shape, 0 to 1."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Reading:
    """What is in an image."""

    background: str
    things: tuple[Seen, ...]
    """Largest first."""

    def scene(self) -> world.Scene:
        """Returns the scene that was seen, in the palette's colours. Raises ValueError if a thing has no shape."""
        if not all(seen.shape for seen in self.things):
            raise ValueError("a thing has none of the world's shapes")
        return world.Scene(
            rgb=world.colour(self.background),
            things=tuple(
                world.Thing(shape=seen.shape, rgb=world.colour(seen.colour), x=seen.x, y=seen.y, radius=seen.radius)
                for seen in self.things
            ),
        )


@dataclass(kw_only=True, frozen=True, slots=True)
class Verdict:
    """Which parts of a request an image fulfils. What a request does not say is right."""

    background: bool
    count: bool
    colours: bool
    """The colours that were asked for are there, as often as asked."""
    shapes: bool
    positions: bool
    """Each object, recognised by colour and shape, is where it was asked for."""

    @property
    def right(self) -> bool:
        """Whether everything is."""
        return self.background and self.count and self.colours and self.shapes and self.positions


def read(pixels: Pixels) -> Reading:
    """Returns what is in an image of any size from 32x32."""
    image = pixels.astype(np.float32)
    side = min(image.shape[:2])
    frame = max(2, round(_BORDER * side))
    inner = np.zeros(image.shape[:2], dtype=bool)
    inner[frame:-frame, frame:-frame] = True
    votes = np.bincount(_nearest(image[~inner]), minlength=len(COLOURS))
    background = int(votes.argmax())
    labels, contrast = _nearest(image), np.linalg.norm(image - _PALETTE[background], axis=-1)
    things = sorted(
        (_thing(image, part, background) for part in _parts(contrast > _CONTRAST, labels, background, side)),
        key=lambda seen: -seen.radius,
    )
    return Reading(background=COLOURS[background], things=tuple(things))


def judge(reading: Reading, request: Request) -> Verdict:
    """Returns how an image's reading compares with a request."""
    things, wanted = reading.things, request.objects
    pairings = list(itertools.permutations(things, len(wanted))) if len(things) >= len(wanted) else []

    def somehow(*tests: str) -> bool:
        return any(
            all(_fulfils(seen, one, test) for seen, one in zip(pairing, wanted, strict=True) for test in tests)
            and ("position" not in tests or _relation_holds(pairing, wanted))
            for pairing in pairings
        )

    return Verdict(
        background=request.background in {None, reading.background},
        count=len(things) == len(wanted),
        colours=somehow("colour"),
        shapes=somehow("colour", "shape"),
        positions=somehow("colour", "shape", "position"),
    )


def nearest_render(reading: Reading, pixels: Pixels, finish: world.Finish) -> tuple[Pixels, float]:
    """Returns the world's render of what was seen that is nearest to the image, and its PSNR in dB.

    Places and radii are searched around the reading, so that a quarter of a pixel does not decide. Raises ValueError if
    a thing has no shape.
    """
    height, width, _ = pixels.shape
    target = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)

    def error(scene: world.Scene) -> float:
        return float((world.render([scene], finish, width=width, height=height)[0] - target).square().mean())

    best, side = reading.scene(), min(height, width)
    lowest = error(best)
    for step in (1.0, 0.4):
        for index, dimension in itertools.product(range(len(best.things)), ("x", "y", "radius")):
            span = {"x": width, "y": height, "radius": side}[dimension]
            for sign in (-1, 1):
                thing = best.things[index]
                moved = replace(thing, **{dimension: getattr(thing, dimension) + sign * step / span})
                scene = replace(best, things=(*best.things[:index], moved, *best.things[index + 1 :]))
                if (found := error(scene)) < lowest:
                    best, lowest = scene, found
    image = world.render([best], finish, width=width, height=height)[0]
    return (image.permute(1, 2, 0) * 255).round().byte().numpy(), -10 * math.log10(max(lowest, 1e-10))


def _parts(foreground: _Mask, labels: npt.NDArray[np.int64], background: int, side: int) -> Iterator[_Mask]:
    """Yields each thing's mask: connected, and where two colours touch, divided between them."""
    least, depth = _LEAST_AREA * side * side, max(1, round(_CORE * side))
    components, count = ndimage.label(foreground)
    for index in range(1, count + 1):
        component = components == index
        if component.sum() < least:
            continue
        cores = []
        for label in set(np.unique(labels[component]).tolist()) - {background}:
            # a soft edge runs through other colours: only what is left of a colour without its rim counts
            solid = ndimage.binary_erosion(component & (labels == label), iterations=depth)
            pieces, found = ndimage.label(ndimage.binary_dilation(solid, iterations=depth))
            cores += [piece for number in range(1, found + 1) if (piece := pieces == number).sum() > least / 2]
        if len(cores) < 2:
            yield component
            continue
        distances = np.stack([ndimage.distance_transform_edt(~core) for core in cores])
        owner = distances.argmin(axis=0)
        yield from (component & (owner == number) for number in range(len(cores)))


def _thing(image: npt.NDArray[np.float32], part: _Mask, background: int) -> Seen:
    height, width = part.shape
    side = min(height, width)
    core = part
    for _ in range(max(1, round(2 * _CORE * side))):
        smaller = ndimage.binary_erosion(core)
        if smaller.sum() < 12:
            break
        core = smaller
    colour = int(_nearest(np.median(image[core], axis=0)[None])[0])
    # the outline is where the colour is half way between the background's and the thing's
    ground, away = _PALETTE[background], np.median(image[core], axis=0) - _PALETTE[background]
    cover = ((image - ground) @ away) / max(float(away @ away), 1.0)
    near = ndimage.binary_dilation(part, iterations=2)
    mask = near & (np.clip(cover, 0, 1) >= 0.5) if colour != background else part
    mask = ndimage.binary_fill_holes(mask)
    area = max(int(mask.sum()), 1)
    y, x = (float(mean) + 0.5 for mean in ndimage.center_of_mass(mask)) if mask.any() else (height / 2, width / 2)
    radius = math.sqrt(area / math.pi)
    shape, match = _shape(mask, x, y, radius)
    return Seen(
        colour=COLOURS[colour],
        shape=shape if match >= _LEAST_MATCH else "",
        x=x / width,
        y=y / height,
        radius=radius / side,
        match=match,
    )


def _shape(mask: _Mask, x: float, y: float, radius: float) -> tuple[str, float]:
    found = torch.from_numpy(mask)
    matches = {}
    for shape in SHAPES:
        drawn = world.inside(shape, mask.shape[1], mask.shape[0], x=x, y=y, radius=radius)
        matches[shape] = float((found & drawn).sum() / (found | drawn).sum())
    best = max(matches, key=lambda shape: matches[shape])
    return best, matches[best]


def _fulfils(seen: Seen, wanted: Wanted, test: str) -> bool:
    if test == "colour":
        return wanted.colour in {None, seen.colour}
    if test == "shape":
        return wanted.shape == seen.shape
    return wanted.position is None or _is_at(seen, wanted.position)


def _is_at(seen: Seen, position: str) -> bool:
    dx, dy = seen.x - 0.5, seen.y - 0.5
    if position == "centre":
        return math.hypot(dx, dy) < _OFF_CENTRE
    along = {"left": -dx, "right": dx, "top": -dy, "bottom": dy}[position]
    across = dy if position in {"left", "right"} else dx
    return along > max(_OFF_CENTRE, abs(across))


def _relation_holds(pairing: tuple[Seen, ...], wanted: tuple[Wanted, ...]) -> bool:
    """Returns whether two objects that were asked for on two sides are on different sides of each other."""
    if len(wanted) != 2 or wanted[0].position is None:
        return True
    first, second = pairing
    distance = {
        "left": second.x - first.x,
        "right": first.x - second.x,
        "top": second.y - first.y,
        "bottom": first.y - second.y,
    }[wanted[0].position]
    return distance > _OFF_CENTRE


def _nearest(colours: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    nearest: npt.NDArray[np.int64] = np.linalg.norm(colours[..., None, :] - _PALETTE, axis=-1).argmin(axis=-1)
    return nearest
