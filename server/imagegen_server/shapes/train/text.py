"""The text encoders: trained to know the scene, before any image is seen.

A linear reading of what SDXL hands to its UNets (the state before the last layer, and encoder 2's pooled embedding)
must give the background and both objects. Then the encoders are frozen: the UNets learn from embeddings that already
tell which colour belongs to which shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from imagegen_server.shapes import prompts
from imagegen_server.shapes.tokenizer import MAX_LENGTH
from imagegen_server.shapes.train.loop import Losses, Recipe, run
from imagegen_server.shapes.words import COLOURS, POSITIONS, SHAPES, SIZES

_BATCH = 128
_TESTED_BATCHES = 16
_STRAY_WORDS = 0.1
"""The share of prompts with words that no other prompt has, so that they are read over."""
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")

_SLOT: tuple[tuple[str, ...], ...] = (COLOURS, SHAPES, SIZES, POSITIONS)
_SLOTS = 2
_CLASSES = (len(COLOURS) + 1, *[len(names) + 1 for names in _SLOT] * _SLOTS)
"""Background, then colour, shape, size and position of each object; class 0: not said, or no such object."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Encoders:
    """Both encoders of a pair, and their tokenizer."""

    first: Any
    """A CLIPTextModel."""
    second: Any
    """A CLIPTextModelWithProjection."""
    tokenizer: Any

    @torch.no_grad()
    def embed(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what SDXL's pipelines make of the texts: states (texts, 77, 160) and pooled (texts, 96)."""
        ids = self.ids(texts, MAX_LENGTH)
        first = self.first(ids, output_hidden_states=True)
        second = self.second(ids, output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds

    def ids(self, texts: list[str], length: int | None = None) -> torch.Tensor:
        """Returns token ids, padded to `length` or to the longest."""
        padding = "longest" if length is None else "max_length"
        tokens = self.tokenizer(
            texts, padding=padding, max_length=length or MAX_LENGTH, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids.to(next(self.first.parameters()).device)  # type: ignore[no-any-return]  # untyped library


class _Readers(nn.Module):
    """The encoders with linear readings of their outputs."""

    def __init__(self, encoders: Encoders) -> None:
        super().__init__()
        self.first, self.second = encoders.first, encoders.second
        widths = (self.first.config.hidden_size, self.second.config.hidden_size, self.second.config.projection_dim)
        self.heads = nn.ModuleList(nn.Linear(width, sum(_CLASSES)) for width in widths)

    def forward(self, ids: torch.Tensor, end: int) -> list[torch.Tensor]:
        """Returns the readings of encoder 1, encoder 2 and the pooled embedding, (batch, all classes) each."""
        rows = torch.arange(len(ids), device=ids.device)
        at = (ids == end).int().argmax(dim=-1)
        first = self.first(ids, output_hidden_states=True).hidden_states[-2][rows, at]
        second = self.second(ids, output_hidden_states=True)
        states = (first, second.hidden_states[-2][rows, at], second.text_embeds)
        return [head(state) for head, state in zip(self.heads, states, strict=True)]


def train(encoders: Encoders, steps: int, checkpoint: Path, device: str) -> float:
    """Trains both encoders in place and returns what `accuracy` says of them."""
    readers = _Readers(encoders).to(device)
    end = encoders.tokenizer.eos_token_id

    def loss_at(step: int) -> Losses:
        rng = np.random.default_rng((11, step))
        ids, labels = _batch(encoders, rng, device)
        readings = readers(ids, end)
        return {
            name: _loss(reading, labels) for name, reading in zip(("first", "second", "pooled"), readings, strict=True)
        }

    run(Recipe(name="text", steps=steps, learning_rate=2e-3, ema_decay=0.995), readers, loss_at, checkpoint)
    return accuracy(readers, encoders, device)


@torch.no_grad()
def accuracy(readers: _Readers, encoders: Encoders, device: str) -> float:
    """Returns the share of prompts whose every fact the pooled embedding gives, held-out combinations included."""
    right = 0
    for step in range(_TESTED_BATCHES):
        ids, labels = _batch(encoders, np.random.default_rng((12, step)), device, held_out=None)
        pooled = readers(ids, encoders.tokenizer.eos_token_id)[-1]
        guesses = torch.stack([part.argmax(dim=-1) for part in pooled.split(_CLASSES, dim=-1)], dim=-1)
        right += int((guesses == labels).all(dim=-1).sum())
    return right / (_TESTED_BATCHES * _BATCH)


def with_stray_words(prompt: str, rng: np.random.Generator) -> str:
    """Returns the prompt with one or two words that mean nothing."""
    words = prompt.split(" ")
    for _ in range(int(rng.integers(1, 3))):
        stray = "".join(rng.choice(_LETTERS, size=int(rng.integers(3, 8))))
        words.insert(int(rng.integers(len(words) + 1)), stray)
    return " ".join(words)


def _batch(
    encoders: Encoders, rng: np.random.Generator, device: str, *, held_out: bool | None = False
) -> tuple[torch.Tensor, torch.Tensor]:
    requests = [prompts.sample(rng, held_out=held_out) for _ in range(_BATCH)]
    texts = [
        with_stray_words(request.prompt, rng) if rng.random() < _STRAY_WORDS else request.prompt for request in requests
    ]
    return encoders.ids(texts), torch.tensor([_label(request) for request in requests], device=device)


def _label(request: prompts.Request) -> list[int]:
    label = [_index(COLOURS, request.background)]
    for slot in range(_SLOTS):
        if slot < len(request.objects):
            wanted = request.objects[slot]
            values = (wanted.colour, wanted.shape, wanted.size, wanted.position)
            label += [_index(names, value) for names, value in zip(_SLOT, values, strict=True)]
        else:
            label += [0] * len(_SLOT)
    return label


def _index(names: tuple[str, ...], value: str | None) -> int:
    return 0 if value is None else names.index(value) + 1


def _loss(reading: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    parts = torch.split(reading, list(_CLASSES), dim=-1)
    return torch.stack([functional.cross_entropy(part, labels[:, i]) for i, part in enumerate(parts)]).sum() * 0.2
