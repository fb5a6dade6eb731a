"""One training run: seeded, resumable, with a cosine schedule, a moving average of the weights and a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import distributed, nn
from tqdm import tqdm

SAVE_SECONDS = 60.0
"""How much work an interruption may cost."""

_WEIGHT_DECAY = 0.01
_MOST_GRADIENT = 1.0
"""Norm to which larger gradients are cut."""

Losses = Mapping[str, torch.Tensor]


@dataclass(kw_only=True, frozen=True, slots=True)
class Recipe:
    """How long and how fast to learn."""

    name: str
    steps: int
    learning_rate: float
    warm_up: int = 100
    """Steps over which the learning rate rises."""
    ema_decay: float | None = None
    """Decay of the averaged weights a step; None: the last weights are the result."""


def run(recipe: Recipe, model: nn.Module, loss_at: Callable[[int], Losses], checkpoint: Path) -> None:
    """Trains `model` in place to the end of the recipe, from the checkpoint if there is one.

    `loss_at(step)` returns named losses, which are summed; it must depend on `step` and not on what came before, so
    that a resumed run sees what an uninterrupted one would have seen. Raises FloatingPointError if a loss is not
    finite.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=_WEIGHT_DECAY, betas=(0.9, 0.99), fused=True
    )
    average = None if recipe.ema_decay is None else EMAModel(model.parameters(), decay=recipe.ema_decay)
    step = _resume(checkpoint, model, optimizer, average)
    saved = time.monotonic()
    model.train()
    bar = tqdm(total=recipe.steps, initial=step, desc=recipe.name, mininterval=2.0, smoothing=0.02, disable=rank() > 0)
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        losses = loss_at(step)
        total = torch.stack(tuple(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch
        _share_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), _MOST_GRADIENT)
        optimizer.step()
        if average is not None:
            average.step(model.parameters())
        step += 1
        bar.update()
        if step % 20 == 0:
            if not math.isfinite(float(total.detach())):
                raise FloatingPointError(f"{recipe.name} diverged at step {step}")
            bar.set_postfix({name: f"{float(value.detach()):.4f}" for name, value in losses.items()}, refresh=False)
        if rank() == 0 and (time.monotonic() - saved > SAVE_SECONDS or step == recipe.steps):
            _save(checkpoint, step, model, optimizer, average)
            saved = time.monotonic()
    bar.close()
    if average is not None:
        average.copy_to(model.parameters())
    model.eval()


def rank() -> int:
    """Returns this process's place among those that train together; 0 alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Returns how many processes train together: each takes its part of a batch, all make the same step."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _share_gradients(model: nn.Module) -> None:
    """Replaces the gradients by their mean over the processes."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world_size()
    for gradient, shared in zip(
        gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True
    ):
        gradient.copy_(shared.view_as(gradient))


def _schedule(step: int, recipe: Recipe) -> float:
    """Returns the share of the full learning rate: a linear rise, then half a cosine down to 1 %."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMAModel | None) -> None:
    aside = path.with_suffix(".part")
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    if average is not None:
        state["average"] = average.state_dict()
    torch.save(state, aside)
    aside.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMAModel | None) -> int:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return 0
    device = next(model.parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if average is not None:
        average.load_state_dict(state["average"])
    return int(state["step"])
