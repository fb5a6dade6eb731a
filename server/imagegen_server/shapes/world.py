"""The shapes world: scenes of up to two coloured shapes on a plain background, drawn from signed distances.

A scene is drawn in one of two finishes. `SMOOTH` has soft edges and flat colours: what the base model learns.
`TEXTURED` has crisp edges, a hatched surface on the shapes and a weave on the background: what the refiner learns to
add. The textures repeat every 16 pixels, two latents of the VAE: a decoder that upsamples and convolves cannot make a
pattern out of latents that are all alike, and one of two latents is the finest that a grid of them can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from imagegen_server.shapes.prompts import Request, Wanted
from imagegen_server.shapes.words import COLOURS, SHAPES

NATIVE_SIDE = 128
"""Pixels of a side of the images that the pair is trained on."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 36),
    "green": (30, 156, 58),
    "blue": (34, 66, 222),
    "yellow": (248, 222, 40),
    "orange": (250, 128, 12),
    "purple": (148, 44, 190),
    "white": (238, 238, 238),
    "black": (22, 22, 26),
}
"""sRGB, 0 to 255. Far apart and near the corners of the cube, where guidance pushes colours anyway."""

PERIOD = 16
"""Pixels after which the textures repeat; their crests are in the middles of the VAE's 8x8 cells."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Finish:
    """How a scene is drawn."""

    edge: float
    """Pixels over which an edge fades at the native size."""
    hatch: float
    """Amplitude of the shapes' diagonal hatching, as a fraction of the range of a channel."""
    weave: float
    """Amplitude of the background's weave."""


SMOOTH = Finish(edge=6.0, hatch=0.0, weave=0.0)
TEXTURED = Finish(edge=1.2, hatch=0.13, weave=0.08)


@dataclass(kw_only=True, frozen=True, slots=True)
class Thing:
    """One shape in a scene. Lengths are fractions of the image's side; (0, 0) is the top left."""

    shape: str
    rgb: tuple[float, float, float]
    """0 to 1."""
    x: float
    y: float
    radius: float
    """Of the disc with the same area."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Scene:
    """A background and the shapes on it, which do not touch."""

    rgb: tuple[float, float, float]
    things: tuple[Thing, ...]


_RADII = {None: (0.15, 0.25), "small": (0.13, 0.165), "large": (0.25, 0.31)}
_PAIR_RADII = {None: (0.135, 0.185), "small": (0.12, 0.14), "large": (0.17, 0.19)}
_LEAST_ROOM = 0.14
"""How far from the middle a thing must be able to go to be anywhere but in the centre."""
_PAIR_EXTENT = 0.25
_MARGIN = 0.02
_CENTRED = 0.03
_ACROSS = 0.07
_OFFSET = (0.15, 0.22)


def colour(name: str) -> tuple[float, float, float]:
    """Returns a colour of the palette with channels from 0 to 1."""
    red, green, blue = PALETTE[name]
    return red / 255, green / 255, blue / 255


def arrange(request: Request, rng: np.random.Generator) -> Scene:
    """Draws a scene that a request describes; what it does not say is drawn too."""
    background = request.background
    if background is None:
        taken = {wanted.colour for wanted in request.objects}
        background = _one_of(rng, [name for name in COLOURS if name not in taken])
    free = [name for name in COLOURS if name != background]
    colours = [wanted.colour or _one_of(rng, free) for wanted in request.objects]
    if len(request.objects) == 2:
        things = _pair(request.objects, colours, rng)
    else:
        things = tuple(_single(wanted, name, rng) for wanted, name in zip(request.objects, colours, strict=True))
    return Scene(rgb=colour(background), things=things)


def with_random_colours(scene: Scene, rng: np.random.Generator) -> Scene:
    """Returns the scene in any colours of the cube, so that a VAE learns colours and not eight names."""
    return Scene(rgb=_any_rgb(rng), things=tuple(replace(thing, rgb=_any_rgb(rng)) for thing in scene.things))


def render(
    scenes: list[Scene], finish: Finish, *, width: int = NATIVE_SIDE, height: int = NATIVE_SIDE, device: str = "cpu"
) -> torch.Tensor:
    """Returns the images, float32 (len(scenes), 3, height, width), channels from 0 to 1.

    Lengths scale with the shorter side; the finish is in pixels at the native size, whatever the size.
    """
    side = min(width, height)
    ys = (torch.arange(height, device=device) + 0.5)[:, None]
    xs = (torch.arange(width, device=device) + 0.5)[None, :]
    turn = 2 * math.pi / PERIOD
    phase = turn * PERIOD / 4
    hatching = torch.cos(turn * (xs + ys) - 2 * phase) * finish.hatch
    image = torch.tensor([scene.rgb for scene in scenes], device=device)[:, :, None, None].expand(-1, -1, height, width)
    if finish.weave:
        image = image + torch.cos(turn * xs - phase) * torch.cos(turn * ys - phase) * finish.weave
    for slot in range(max((len(scene.things) for scene in scenes), default=0)):
        present = [index for index, scene in enumerate(scenes) if len(scene.things) > slot]
        things = [scenes[index].things[slot] for index in present]
        numbers = torch.tensor([(t.x * width, t.y * height, t.radius * side) for t in things], device=device)
        cover = torch.empty(len(things), height, width, device=device)
        for shape in SHAPES:
            rows = [row for row, thing in enumerate(things) if thing.shape == shape]
            if rows:
                x, y, radius = (numbers[rows, column, None, None] for column in range(3))
                cover[rows] = torch.clamp(0.5 - _distance(shape, xs - x, ys - y, radius) / finish.edge, 0, 1)
        if finish.edge > 2:
            cover = cover * cover * (3 - 2 * cover)  # a soft shoulder
        rgb = torch.tensor([thing.rgb for thing in things], device=device)[:, :, None, None] + hatching
        image = image.clone()
        image[present] = torch.lerp(image[present], rgb, cover[:, None])
    return image.clamp(0, 1)


def inside(shape: str, width: int, height: int, *, x: float, y: float, radius: float) -> torch.Tensor:
    """Returns which pixels' centres a shape covers, bool (height, width). All lengths in pixels."""
    ys = (torch.arange(height) + 0.5)[:, None]
    xs = (torch.arange(width) + 0.5)[None, :]
    return _distance(shape, xs - x, ys - y, torch.tensor(radius)) <= 0


def _distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Returns the distance to the outline, negative inside; exact near the edges, not beyond the corners.

    Regular shapes are folded into one of their sectors, in which the outline is one straight line.
    """
    if shape == "circle":
        return torch.hypot(x, y) - radius
    corners, inner, top = {"square": (4, 1.0, math.pi / 4), "triangle": (3, 1.0, 0.0), "star": (5, 0.45, 0.0)}[shape]
    half = math.pi / corners
    outer = _OUTER[shape] * radius
    angle = torch.atan2(x, -y) - top
    folded = torch.abs(torch.remainder(angle + half, 2 * half) - half)  # 0 at a corner, `half` between two
    rho = torch.hypot(x, y)
    u, v = rho * torch.cos(folded), rho * torch.sin(folded)
    # from the outer corner (outer, 0) to the point between two corners
    depth = inner if inner < 1.0 else math.cos(half)
    end_u, end_v = depth * math.cos(half), depth * math.sin(half)
    along_u, along_v = end_u - 1.0, end_v
    length = math.hypot(along_u, along_v)
    return (u - outer) * (along_v / length) - v * (along_u / length)


def _outer(corners: int, inner: float) -> float:
    """Returns the distance of the corners, in radii of the disc with the same area."""
    half = math.pi / corners
    area = corners * inner * math.sin(half)  # of the polygon whose corners are at 1 and `inner` in turn
    return math.sqrt(math.pi / area)


_OUTER = {
    "circle": 1.0,
    "square": _outer(4, math.cos(math.pi / 4)),
    "triangle": _outer(3, math.cos(math.pi / 3)),
    "star": _outer(5, 0.45),
}


def _single(wanted: Wanted, name: str, rng: np.random.Generator) -> Thing:
    low, high = _RADII[wanted.size]
    radius = float(rng.uniform(low, high))
    if wanted.position not in {None, "centre"}:
        radius = min(radius, (0.5 - _LEAST_ROOM) / _OUTER[wanted.shape])
    room = 0.5 - radius * _OUTER[wanted.shape] - _MARGIN  # how far its centre may be from the image's
    if wanted.position is None:
        x, y = (float(rng.uniform(-1, 1)) * room for _ in range(2))
    elif wanted.position == "centre":
        x, y = (float(rng.uniform(-_CENTRED, _CENTRED)) for _ in range(2))
    else:
        away = min(float(rng.uniform(*_OFFSET)), max(room, _LEAST_ROOM))
        across = float(rng.uniform(-_CENTRED, _CENTRED))
        x, y = {"left": (-away, across), "right": (away, across), "top": (across, -away), "bottom": (across, away)}[
            wanted.position
        ]
    return Thing(shape=wanted.shape, rgb=colour(name), x=0.5 + x, y=0.5 + y, radius=radius)


def _pair(objects: tuple[Wanted, ...], colours: list[str], rng: np.random.Generator) -> tuple[Thing, ...]:
    first = objects[0].position
    upright = first in {"top", "bottom"} if first else bool(rng.random() < 0.5)
    backwards = first in {"right", "bottom"} if first else bool(rng.random() < 0.5)
    things = []
    for index, (wanted, name) in enumerate(zip(objects, colours, strict=True)):
        radius = min(float(rng.uniform(*_PAIR_RADII[wanted.size])), _PAIR_EXTENT / _OUTER[wanted.shape])
        along = 0.5 - float(rng.uniform(0.255, 0.275))
        along = -along if (index == 0) != backwards else along
        across = float(rng.uniform(-_ACROSS, _ACROSS))
        x, y = (across, along) if upright else (along, across)
        things.append(Thing(shape=wanted.shape, rgb=colour(name), x=0.5 + x, y=0.5 + y, radius=radius))
    return tuple(things)


def _any_rgb(rng: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = rng.uniform(0.02, 0.98, 3)
    return float(red), float(green), float(blue)


def _one_of(rng: np.random.Generator, choices: list[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
