"""Group norms by channels: the same normalisation, and torch's own where nothing is compiled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from imagegen_server.models.evaluation.group_norm import ChannelwiseGroupNorm, by_channels


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """Leaves no compiled code behind."""
    yield
    torch.compiler.reset()


def _norm(channels: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(8, channels, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("shape", [(1, 32, 16, 24), (3, 64, 5, 7), (2, 16, 40)])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_compiled_it_normalises_as_torch_does(shape: tuple[int, ...], mean: float) -> None:
    """For images and for tokens, also where the mean is large beside the spread, which sums of squares would lose."""
    torch.manual_seed(0)
    images = torch.randn(shape) + mean
    norm = _norm(shape[1])
    exact = nn.functional.group_norm(images.double(), 8, norm.weight.double(), norm.bias.double(), norm.eps)
    by_channels((norm,), on=True)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images).double(), exact, atol=2e-4, rtol=1e-4)


def test_half_precision_is_computed_in_fp32() -> None:
    """Its result is the exact one, rounded once."""
    torch.manual_seed(0)
    images = torch.randn(1, 32, 64, 64).bfloat16()
    norm = _norm(32)
    with torch.inference_mode():
        exact = norm(images.float())
        by_channels((norm.bfloat16(),), on=True)
        found = torch.compile(norm, backend="eager", fullgraph=True)(images)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=2e-2, rtol=1.6e-2)


def test_what_is_not_compiled_has_the_bits_of_torchs_own() -> None:
    """A size that nothing was compiled for looks as it always did; off, the classes are torch's again."""
    images = torch.randn(2, 32, 9, 11)
    model = nn.Sequential(_norm(32), nn.SiLU(), _norm(32))
    before = model(images)
    by_channels((model,), on=True)
    assert [type(part) for part in model] == [ChannelwiseGroupNorm, nn.SiLU, ChannelwiseGroupNorm]
    assert torch.equal(model(images), before)
    by_channels((model,), on=False)
    assert [type(part) for part in model] == [nn.GroupNorm, nn.SiLU, nn.GroupNorm]
