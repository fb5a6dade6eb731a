"""What the UNets are trained on: scenes as latents in both finishes, and their prompts as embeddings, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from imagegen_server.shapes import prompts, world
from imagegen_server.shapes.train.text import Encoders, with_stray_words

_BATCH = 32
_STRAY_WORDS = 0.05
_KEPT = torch.float16
"""Latents and embeddings are of the order of one; half precision halves the memory and moves nothing that matters."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Latents:
    """Scenes of one size."""

    side: int
    """Pixels."""
    smooth: torch.Tensor
    """(scenes, 4, side / 8, side / 8), scaled as the VAE's configuration says."""
    textured: torch.Tensor
    """The same scenes with the refiner's finish."""
    embeddings: torch.Tensor
    """(scenes, 77, 160): encoder 1's 64 channels, then encoder 2's."""
    pooled: torch.Tensor
    """(scenes, 96)."""

    def __len__(self) -> int:
        """Scenes."""
        return len(self.smooth)


def load(*files: Path, device: str) -> Latents:
    """Returns what `make` wrote to the files, which are of one size."""
    parts = [torch.load(file, map_location=device, weights_only=True) for file in files]
    names = ("smooth", "textured", "embeddings", "pooled")
    return Latents(side=parts[0]["side"], **{name: torch.cat([part[name] for part in parts]) for name in names})


def make(vae: Any, encoders: Encoders, *, side: int, scenes: int, seed: int, file: Path, device: str) -> None:
    """Writes `scenes` scenes of `side` pixels to the file, unless they are there already."""
    if file.exists():
        return
    rng = np.random.default_rng((21, seed))
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("smooth", "textured", "embeddings", "pooled")}
    for _ in tqdm(range(0, scenes, _BATCH), desc=f"corpus {file.stem}", mininterval=2.0):
        requests = [prompts.sample(rng) for _ in range(_BATCH)]
        drawn = [world.arrange(request, rng) for request in requests]
        texts = [
            with_stray_words(request.prompt, rng) if rng.random() < _STRAY_WORDS else request.prompt
            for request in requests
        ]
        for name, finish in (("smooth", world.SMOOTH), ("textured", world.TEXTURED)):
            pixels = world.render(drawn, finish, width=side, height=side, device=device)
            parts[name].append(_encode(vae, pixels).to(_KEPT))
        for name, tensor in zip(("embeddings", "pooled"), encoders.embed(texts), strict=True):
            parts[name].append(tensor.to(_KEPT))
    aside = file.with_suffix(".part")
    torch.save({"side": side} | {name: torch.cat(tensors) for name, tensors in parts.items()}, aside)
    aside.replace(file)


@torch.no_grad()
def _encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    mean: torch.Tensor = vae.encode(pixels * 2 - 1).latent_dist.mean
    factor: float = vae.config.scaling_factor
    return mean * factor
