"""diffusers' pipelines as the peers call them: several requests in one call where their parameters are equal."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers.asks import GUIDANCE, STRENGTH, Ask
from bench.peers.ledger import VARIABLE, Ledger

if TYPE_CHECKING:
    from support.pairs import Stock


def groups(asks: Sequence[Ask]) -> list[list[int]]:
    """Returns the positions of the requests that one pipeline call can make together: equal sizes and step counts.

    A pipeline has one schedule and one latent tensor for the whole of a call. Groups come in the order of their
    first request.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for position, ask in enumerate(asks):
        found.setdefault((ask.side, ask.steps), []).append(position)
    return list(found.values())


def threads() -> int:
    """Returns how many threads an operation of torch gets in every system: all cores unless OMP_NUM_THREADS says."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


class Pipelines:
    """The embedded pair, loaded by diffusers alone. Use it on one thread: torch builds a thread pool for each."""

    def __init__(self) -> None:
        import torch

        from imagegen_server import shapes
        from support.pairs import load_stock

        torch.set_num_threads(threads())
        self._stock: Stock = load_stock(shapes.DIRECTORY)
        self._ledger = Ledger(Path(os.environ[VARIABLE]))

    def files(self, asks: Sequence[Ask]) -> list[bytes]:
        """Returns the PNG files of requests, in order."""
        files = [b""] * len(asks)
        for group in groups(asks):
            for position, file in zip(group, self._together([asks[p] for p in group]), strict=True):
                files[position] = file
        return files

    def _together(self, asks: Sequence[Ask]) -> list[bytes]:
        import torch

        like, prompts = asks[0], [ask.prompt for ask in asks]
        generators = [torch.Generator("cpu").manual_seed(ask.seed) for ask in asks]
        with self._ledger.call([ask.key for ask in asks]):
            latents = self._stock.base(
                prompt=prompts,
                num_inference_steps=like.steps,
                guidance_scale=GUIDANCE,
                width=like.side,
                height=like.side,
                generator=generators,
                output_type="latent",
            ).images
            images = self._stock.refiner(
                prompt=prompts,
                image=latents,
                num_inference_steps=like.steps,
                strength=STRENGTH,
                guidance_scale=GUIDANCE,
                generator=generators,
            ).images
        return [_png(image) for image in images]


def _png(image: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")  # type: ignore[attr-defined]
    return buffer.getvalue()
