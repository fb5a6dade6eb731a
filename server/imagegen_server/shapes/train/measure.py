"""What the pair can do, measured through the service: every image comes over gRPC, and the judge reads it.

`python -m imagegen_server.shapes.train.measure` prints the figures and writes them beside the model card, as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from imagegen import Client, ImageReceived, Preview, RefinerOptions
from imagegen_server.local import serving
from imagegen_server.shapes import judge, prompts, world
from imagegen_server.shapes.prompts import Request

COUNTS = {"single": (1, 150), "double": (2, 100), "background": (0, 50)}
"""Objects, and prompts: 300 in all. With objects, every prompt has a combination that training never showed."""
_SEED = 2026
_TOGETHER = 8
_PREVIEWS = 3
_Z = 1.96
_OTHER_SIDES, _OTHERS = (64, 256), 30


@dataclass(kw_only=True, frozen=True, slots=True)
class Result:
    """One prompt, drawn and read."""

    request: Request
    pixels: judge.Pixels
    reading: judge.Reading
    verdict: judge.Verdict
    preview: judge.Reading | None
    """Of the last preview."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Share:
    """How often something held."""

    held: int
    of: int

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self.held / self.of

    def interval(self) -> tuple[float, float]:
        """Returns Wilson's 95 % interval (Wilson 1927)."""
        centre = (self.held + _Z**2 / 2) / (self.of + _Z**2)
        half = _Z * math.sqrt(self.held * (self.of - self.held) / self.of + _Z**2 / 4) / (self.of + _Z**2)
        return centre - half, centre + half

    def as_json(self) -> dict[str, Any]:
        """Returns the figures for a file."""
        low, high = self.interval()
        return {
            "held": self.held,
            "of": self.of,
            "share": round(self.value, 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }

    def __str__(self) -> str:
        """Returns them for people."""
        low, high = self.interval()
        return f"{self.value:.1%} of {self.of} [{low:.1%}, {high:.1%}]"


def requests(kind: str, number: int | None = None) -> list[Request]:
    """Returns the requests of a kind, the same in every run: terse, and held out where there are objects."""
    objects, count = COUNTS[kind]
    drawn = prompts.samples(_SEED, count=objects, held_out=None if objects == 0 else True, terse=True)
    return list(islice(drawn, count if number is None else number))


def draw(address: str, wanted: Sequence[Request], **options: Any) -> list[Result]:
    """Returns an image for each request, seeds in order; `options` are the client's."""

    def one(item: tuple[int, Request]) -> Result:
        seed, request = item
        image, last = None, None
        for event in client.generate(request.prompt, seed=seed, **options):
            if isinstance(event, Preview):
                last = event.data
            elif isinstance(event, ImageReceived):
                image = event.image.data
        if image is None:
            raise RuntimeError(f"no image came for {request.prompt!r}")
        pixels = decode(image)
        reading = judge.read(pixels)
        return Result(
            request=request,
            pixels=pixels,
            reading=reading,
            verdict=judge.judge(reading, request),
            preview=None if last is None else judge.read(decode(last, side=len(pixels))),
        )

    with Client(address) as client, ThreadPoolExecutor(_TOGETHER) as threads:
        return list(tqdm(threads.map(one, enumerate(wanted)), total=len(wanted), mininterval=2.0))


def decode(data: bytes, side: int | None = None) -> judge.Pixels:
    """Returns an image file's pixels, enlarged to `side` if given."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)


def share(held: Iterator[bool]) -> Share:
    """Counts."""
    values = list(held)
    return Share(held=sum(values), of=len(values))


def same_scene(first: judge.Reading, second: judge.Reading) -> bool:
    """Returns whether two readings have the same background and the same things in the same quarters."""

    def things(reading: judge.Reading) -> list[tuple[str, str]]:
        return sorted((seen.colour, seen.shape) for seen in reading.things)

    return first.background == second.background and things(first) == things(second)


def sharper(refined: Result, base: Result) -> bool:
    """Returns whether the refined image is nearer to a textured render than the base's image is.

    Each is compared with the textured render of what is in it, by PSNR. An image with a thing that has none of the
    world's shapes is near nothing.
    """

    def nearness(result: Result) -> float:
        try:
            return judge.nearest_render(result.reading, result.pixels, world.TEXTURED)[1]
        except ValueError:
            return 0.0

    return nearness(refined) > nearness(base)


def measure(address: str) -> dict[str, Share]:
    """Returns every figure of the model card."""
    by_kind = {kind: requests(kind) for kind in COUNTS}
    wanted = [request for kind in COUNTS for request in by_kind[kind]]
    refined = draw(address, wanted, preview_count=_PREVIEWS)
    base = draw(address, wanted, use_refinement=False)
    thirty = RefinerOptions(num_inference_steps=30)
    strong = draw(address, by_kind["single"], guidance_scale=8.0, num_inference_steps=50, refiner=thirty)
    figures: dict[str, Share] = {}
    start = 0
    for kind in COUNTS:
        end = start + len(by_kind[kind])
        figures[f"{kind}: all right"] = share(result.verdict.right for result in refined[start:end])
        figures[f"{kind}: all right, base alone"] = share(result.verdict.right for result in base[start:end])
        start = end
    for part in ("background", "count", "colours", "shapes", "positions"):
        figures[f"all: {part} right"] = share(getattr(result.verdict, part) for result in refined)
    figures["all: all right"] = share(result.verdict.right for result in refined)
    figures["all: all right, base alone"] = share(result.verdict.right for result in base)
    figures["single at guidance 8, 50 + 30 steps: all right"] = share(result.verdict.right for result in strong)
    for side in _OTHER_SIDES:
        others = draw(address, by_kind["single"][:_OTHERS], width=side, height=side)
        figures[f"single at {side}x{side}: all right"] = share(result.verdict.right for result in others)
    figures["refined nearer to the textured render than the base"] = share(
        sharper(one, other) for one, other in zip(refined, base, strict=True)
    )
    figures["last preview shows the image's scene"] = share(
        result.preview is not None and same_scene(result.preview, result.reading) for result in refined
    )
    return figures


def main() -> None:
    """Prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", help="address of a running server (default: one of its own)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if options.server:
        figures = measure(options.server)
    else:
        with serving("--model", "shapes", "--log-level", "warning") as server:
            figures = measure(server.address)
    for name, value in figures.items():
        print(f"{name:52} {value}")
    if options.output:
        text = json.dumps({name: value.as_json() for name, value in figures.items()}, indent=2)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
