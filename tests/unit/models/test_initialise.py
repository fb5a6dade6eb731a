"""Random weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from imagegen_server.models.initialise import initialise
from imagegen_server.models.sources.architecture import SHAPES_BASE, SHAPES_REFINER, Architecture


def drawn(architecture: Architecture, module: str, seed: int) -> nn.Module:
    """A module with weights."""
    built = architecture.outline(module)
    built.to_empty(device="cpu")
    initialise(built, seed)
    return built


@pytest.mark.parametrize(
    ("architecture", "module"),
    [(half, module) for half in (SHAPES_BASE, SHAPES_REFINER) for module in half.modules()],
    ids=str,
)
def test_every_parameter_and_buffer_is_filled_the_same_for_a_seed(architecture: Architecture, module: str) -> None:
    """Nothing keeps what happened to be in memory."""
    first, second = drawn(architecture, module, 3), drawn(architecture, module, 3)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)
    for name, buffer in first.named_buffers():
        assert torch.equal(buffer, torch.arange(77).expand(1, -1)), name


def test_a_long_residual_stream_stays_near_one() -> None:
    """Text states after the encoder's layers have neither vanished nor grown."""
    encoder = drawn(SHAPES_BASE, "text_encoder", 0)
    with torch.no_grad():
        states = encoder(torch.arange(77)[None] * 3, output_hidden_states=True).hidden_states
    assert all(0.3 < float(state.std()) < 3.0 for state in states)


def test_a_parameter_without_a_rule_is_refused() -> None:
    """A new kind of layer does not silently stay uninitialised."""
    with pytest.raises(ValueError, match="no rule to draw"):
        initialise(nn.PReLU(), 0)


def test_a_buffer_without_a_rule_is_refused() -> None:
    """Nor does a new kind of buffer."""
    with pytest.raises(ValueError, match="no rule to fill"):
        initialise(nn.BatchNorm1d(3, affine=False), 0)
