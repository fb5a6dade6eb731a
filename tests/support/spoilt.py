"""Requests that break the contract in known places."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, cast

from google.protobuf.message import Message

from imagegen.v1 import imagegen_pb2 as pb
from support.load import request

FALLBACKS = [[0], [7], [-1], [1] * 17, [1, 99], [2**31 - 1] * 500]
INTS = (0, -1, -(2**31), 2**31 - 1)
NUMBERS = (math.nan, math.inf, -math.inf, -1.0, -1e308, 1e308)


def text(least: int) -> Callable[[random.Random], str]:
    """Returns a maker of texts longer than allowed, of one to four bytes a character."""
    return lambda rng: rng.choice("aé漢🎨\0") * rng.randint(least, 4 * least)


def one_of(*values: Any) -> Callable[[random.Random], Any]:
    """Returns a chooser."""
    return lambda rng: rng.choice(values)


SCALARS: dict[str, Callable[[random.Random], Any]] = {
    "request_id": one_of("a b", "x" * 129, "é", "../../etc/passwd", "a\n", "\0", "%s%n", "漢" * 64),
    "model": text(129),
    "prompt": lambda rng: rng.choice(["", " ", "\t\n", text(2001)(rng), text(20_000)(rng)]),
    "prompt_2": text(2001),
    "negative_prompt": text(2001),
    "negative_prompt_2": text(2001),
    "num_inference_steps": one_of(*INTS, 19, 101),
    "guidance_scale": one_of(*NUMBERS, 0.0, 0.999, 20.001),
    "width": one_of(*INTS, 7, 63, 65, 4097, 4104, -64),
    "height": one_of(*INTS, 7, 63, 65, 4097, 4104, -64),
    "num_images": one_of(*INTS, 9),
    "seed": one_of(-1, -(2**63), -(2**31)),
    "scheduler": text(129),
    "refiner.mode": one_of(3, -1, 99, 2**31 - 1, -(2**31)),
    "refiner.num_inference_steps": one_of(*INTS, 101),
    "refiner.strength": one_of(*NUMBERS, 0.0, 1.001),
    "refiner.switch_at": one_of(*NUMBERS, 0.0, 1.0),
    "refiner.guidance_scale": one_of(*NUMBERS, 0.0, 20.001),
    "refiner.aesthetic_score": one_of(*NUMBERS, 10.001),
    "refiner.negative_aesthetic_score": one_of(*NUMBERS, 10.001),
    "refiner.prompt": text(2001),
    "output.mime_type": one_of("image/gif", "text/html", "IMAGE/PNG", "x" * 5000, "image/png\0", "漢"),
    "output.quality": one_of(*INTS, 101),
    "progress.preview_count": one_of(-1, 17, 2**31 - 1, -(2**31)),
    "priority": one_of(3, -1, 2**31 - 1),
    "use_generation": one_of(False),
    "on_disconnect": one_of(3, -1, 2**31 - 1),
    "micro_conditioning.crops_coords_top_left.x": one_of(-1, 65_537, 2**31 - 1),
    "micro_conditioning.negative_crops_coords_top_left.y": one_of(-1, 65_537, -(2**31)),
}
"""Single fields and what is wrong for each, whatever the other fields say. Sizes and repeated fields are below."""

SIZES = tuple(f"micro_conditioning.{name}" for name in ("original_size", "target_size"))
SPECIAL = ("progress.min_interval", "allowed_fallbacks.kinds", "refiner", *(f"{path}.height" for path in SIZES))


def put(message: Message, path: str, value: Any) -> None:
    """Sets a field by its path."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    setattr(message, name, value)


def spoil(message: pb.GenerateImageRequest, path: str, rng: random.Random) -> None:
    """Makes one field of a request wrong."""
    if path in SCALARS:
        put(message, path, SCALARS[path](rng))
    elif path == "progress.min_interval":
        interval = message.progress.min_interval
        interval.seconds, interval.nanos = rng.choice([(-1, 0), (61, 0), (2**62, 0), (1, -1), (0, 10**9), (0, -1)])
    elif path == "allowed_fallbacks.kinds":
        message.allowed_fallbacks.kinds.extend(cast("list[pb.FallbackKind]", rng.choice(FALLBACKS)))
    elif path == "refiner":
        message.use_refinement = False
        if not message.refiner.ByteSize():
            message.refiner.prompt = "x"
    else:
        put(message, path, rng.choice([*INTS, 65_537]))
        put(message, path.replace("height", "width"), 64)


def spoilt(rng: random.Random) -> tuple[pb.GenerateImageRequest, set[str]]:
    """Returns a request with one to twelve wrong fields, and their paths."""
    paths = rng.sample([*SCALARS, *SPECIAL], rng.randint(1, 12))
    message = request()
    message.ClearField("refiner")
    for size in (message.micro_conditioning.negative_original_size, message.micro_conditioning.negative_target_size):
        size.width = size.height = 64  # so that a negative crop is read, whatever else is wrong
    for path in paths:
        spoil(message, path, rng)
    return message, set(paths)
