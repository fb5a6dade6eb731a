"""What of a UNet is compiled piece by piece, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from imagegen_server.models.evaluation.conditioning import Conditioning
from imagegen_server.models.evaluation.forward import Plain
from imagegen_server.models.evaluation.regions import compile_region, compile_whole, plain_again, regions
from imagegen_server.models.initialise import initialise
from imagegen_server.models.sources.architecture import SDXL_BASE, SHAPES_BASE, Architecture


class Counting:
    """A backend that runs what it is given as it is."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: Any, _: Any) -> Any:
        self.graphs += 1
        return module.forward


@pytest.fixture
def backend() -> Iterator[Counting]:
    """A backend that counts what is compiled; nothing of it is left behind."""
    yield Counting()
    torch.compiler.reset()


def _unet(architecture: Architecture, device: str) -> Any:
    with torch.device(device):
        unet: Any = architecture.instantiate("unet")
    if device != "meta":
        initialise(unet, 0)
    return unet.eval()


def _inputs(unet: Any, rows: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    config, device = unet.config, unet.conv_in.weight.device
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    with torch.device(device):
        conditioning = Conditioning(
            embeddings=torch.randn(rows, 77, config.cross_attention_dim),
            pooled=torch.randn(rows, pooled),
            time_ids=torch.randn(rows, 6),
        )
        return torch.randn(rows, config.in_channels, height, width), torch.full((rows,), 500.0), conditioning


def test_regions_are_the_blocks_and_the_norms_between_them() -> None:
    """All of SDXL's transformer and residual blocks, none inside another."""
    unet = _unet(SDXL_BASE, "meta")
    found = list(regions(unet))
    names = [type(region).__name__ for region in found]
    assert names.count("BasicTransformerBlock") == 70
    assert names.count("ResnetBlock2D") == 17
    assert names.count("GroupNorm") == 12, "one before each transformer, and the last"
    assert len(found) == 99
    inside = {id(part) for region in found for part in region.modules() if part is not region}
    assert not [region for region in found if id(region) in inside]


def test_every_kind_of_region_is_compiled_once_for_all_rows_and_sizes(backend: Counting) -> None:
    """A server's first batch compiles all that later ones need; the values are those of the module as it was."""
    unet = _unet(SHAPES_BASE, "cpu")
    plain = Plain(unet)
    batches = [_inputs(unet, *key) for key in ((2, 8, 8), (4, 8, 8), (2, 16, 8), (6, 12, 20))]
    with torch.inference_mode():
        before = [plain(*batch) for batch in batches]
        for region in regions(unet):
            compile_region(region, backend=backend, channels_last=True)
        compiled = [plain(*batches[0])]
        kinds = backend.graphs
        compiled += [plain(*batch) for batch in batches[1:]]
    assert 0 < kinds < len(list(regions(unet)))
    assert backend.graphs == kinds
    for old, new in zip(before, compiled, strict=True):
        torch.testing.assert_close(new, old, atol=1e-4, rtol=1e-4)


class Conditioned(nn.Module):
    """Takes what a UNet takes, of any shape."""

    def forward(
        self, sample: torch.Tensor, timesteps: torch.Tensor, encoder_hidden_states: torch.Tensor, **named: Any
    ) -> tuple[torch.Tensor]:
        shift = encoder_hidden_states.mean((1, 2)) + named["added_cond_kwargs"]["text_embeds"].mean(1) + timesteps
        return (sample + shift[:, None, None, None],)


def test_a_whole_module_is_compiled_once_for_all_rows_of_a_size(backend: Counting) -> None:
    """Another size has a form of its own."""
    module = Conditioned()
    plain = Plain(module)
    compile_whole(module, backend=backend)

    def predicted(rows: int, height: int) -> torch.Tensor:
        conditioning = Conditioning(
            embeddings=torch.ones(rows, 77, 32), pooled=torch.ones(rows, 16), time_ids=torch.ones(rows, 6)
        )
        return plain(torch.ones(rows, 4, height, 8), torch.full((rows,), 500.0), conditioning)

    with torch.inference_mode():
        for rows in (2, 4, 6):
            assert torch.equal(predicted(rows, 8), torch.full((rows, 4, 8, 8), 503.0))
        assert backend.graphs == 1
        predicted(2, 16)
        assert backend.graphs == 2


def test_what_was_compiled_can_be_plain_again(backend: Counting) -> None:
    """The class's own forward is called, with the same bits."""
    block = nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3)).requires_grad_(False)
    images = torch.randn(2, 4, 8, 8)
    before = block(images)
    compile_region(block[1], backend=backend, channels_last=True)
    compile_whole(block[2], backend=backend)
    block(images)
    assert backend.graphs == 2
    plain_again((block,))
    torch.compiler.reset()
    assert torch.equal(block(images), before)
    assert backend.graphs == 2
