"""The training loop: resumed or not, it ends with the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from imagegen_server.shapes.train import loop
from imagegen_server.shapes.train.loop import Losses, Recipe, run

RECIPE = Recipe(name="test", steps=30, learning_rate=0.05, warm_up=5, ema_decay=0.9)


class Interrupted(Exception):
    """What stops a run half way."""


def trained(checkpoint: Path, *, stop_at: int | None = None, recipe: Recipe = RECIPE) -> tuple[nn.Linear, list[int]]:
    """Returns a line fitted to y = 3 x - 1, and the steps that were made."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    made: list[int] = []

    def loss_at(step: int) -> Losses:
        if step == stop_at:
            raise Interrupted
        made.append(step)
        x = torch.randn(16, 1, generator=torch.Generator().manual_seed(step))
        return {"mse": (model(x) - (3 * x - 1)).square().mean(), "bias": 0 * model.bias.sum()}

    run(recipe, model, loss_at, checkpoint)
    return model, made


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last checkpoint, with the optimizer's and the average's state, to the last bit."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    whole, steps = trained(tmp_path / "whole.pt")
    assert steps == list(range(30))
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut.pt", stop_at=17)
    resumed, steps = trained(tmp_path / "cut.pt")
    assert steps == list(range(17, 30))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    """Without a step: what comes after a stage can be repeated."""
    first, _ = trained(tmp_path / "done.pt")
    again, steps = trained(tmp_path / "done.pt")
    assert steps == []
    assert torch.equal(first.weight, again.weight)


def test_it_learns(tmp_path: Path) -> None:
    """The loop does lower its loss."""
    model, _ = trained(tmp_path / "long.pt", recipe=Recipe(name="long", steps=300, learning_rate=0.05))
    assert model.weight.item() == pytest.approx(3, abs=0.05)
    assert model.bias.item() == pytest.approx(-1, abs=0.05)


def test_a_diverging_run_stops(tmp_path: Path) -> None:
    """With the step, instead of saving what is not finite."""
    model = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="step 20"):
        run(RECIPE, model, lambda step: {"loss": model.weight.sum() * float("inf")}, tmp_path / "inf.pt")
