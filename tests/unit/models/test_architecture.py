"""The configurations in the package: sizes as published, activations as the memory plan counts them."""

from __future__ import annotations

import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imagegen_server.models.memory.needs import SDXL_ACTIVATIONS, SHAPES_ACTIVATIONS
from imagegen_server.models.memory.parts import architecture_parts
from imagegen_server.models.sources.architecture import (
    SDXL_BASE,
    SDXL_REFINER,
    SHAPES_BASE,
    SHAPES_REFINER,
    Architecture,
)


def test_the_architecture_has_sdxls_published_sizes() -> None:
    """Parameter counts of Stable Diffusion XL 1.0, the shared parts counted once."""
    assert {part.name: part.parameters for part in architecture_parts(SDXL_BASE, SDXL_REFINER)} == {
        "base.unet": 2_567_463_684,
        "refiner.unet": 2_259_526_660,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    }


TELLS_IMPORTS_WITHOUT_VALUES = """
import sys, torch, torch.utils._device

class Watch:
    def find_spec(self, name, path=None, target=None):
        if torch.empty(0).is_meta:
            print(name)

sys.meta_path.insert(0, Watch())
from imagegen_server.models.memory.parts import architecture_parts
from imagegen_server.models.sources.architecture import SDXL_BASE, SDXL_REFINER
print(len(architecture_parts(SDXL_BASE, SDXL_REFINER)))
"""


def test_nothing_is_imported_where_tensors_have_no_values() -> None:
    """With older releases of torch, diffusers asks tensors for values while it is imported."""
    command = [sys.executable, "-c", TELLS_IMPORTS_WITHOUT_VALUES]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "5\n"


def test_sdxls_vae_is_known_to_overflow_in_fp16() -> None:
    """Its configuration says so, and the embedded pair's does not."""
    assert [part.force_upcast for part in architecture_parts(SDXL_BASE, None) if part.name == "vae"] == [True]
    assert [part.force_upcast for part in architecture_parts(SHAPES_BASE, None) if part.name == "vae"] == [False]


def test_without_a_refiner_only_the_base_is_counted() -> None:
    """Four parts remain."""
    assert len(architecture_parts(SHAPES_BASE, None)) == 4


@pytest.mark.parametrize(
    ("architecture", "module", "latent", "counted"),
    [
        (SDXL_BASE, "unet", 64, SDXL_ACTIVATIONS.base_unet),
        (SDXL_REFINER, "unet", 64, SDXL_ACTIVATIONS.refiner_unet),
        (SDXL_BASE, "vae", 128, SDXL_ACTIVATIONS.vae),
        (SHAPES_BASE, "unet", 16, SHAPES_ACTIVATIONS.base_unet),
        (SHAPES_REFINER, "unet", 16, SHAPES_ACTIVATIONS.refiner_unet),
        (SHAPES_BASE, "vae", 16, SHAPES_ACTIVATIONS.vae),
    ],
    ids=["sdxl-base", "sdxl-refiner", "sdxl-vae", "shapes-base", "shapes-refiner", "shapes-vae"],
)
def test_the_plans_activations_are_those_of_a_run(
    architecture: Architecture, module: str, latent: int, counted: int
) -> None:
    """Elements alive at once, for each row and latent pixel, lie within 1 % below what the plan counts."""
    rows = 2
    live = peak_elements(architecture, module, rows, latent) / (rows * latent * latent)
    assert counted * 0.99 <= live <= counted


class Efficient(TorchFunctionMode):
    """Attention without a matrix of sequence x sequence, as every GPU backend has it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replaces scaled dot-product attention by its result's shape."""
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    """Adds up the storages that are alive; storages of `known` tensors do not count."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # as above
        self.live = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.live:
            self.live[key] = storage.nbytes() // 4
            weakref.finalize(storage, self.live.pop, key, None)
            self.peak = max(self.peak, sum(self.live.values()))


def peak_elements(architecture: Architecture, module: str, rows: int, latent: int) -> int:
    """Returns the most fp32 elements alive during one evaluation, without weights and inputs."""
    config = architecture.config(module)
    with torch.device("meta"), torch.no_grad():
        model: Any = architecture.instantiate(module).eval()
        sample = torch.empty(rows, 4, latent, latent)
        if module == "vae":
            inputs: dict[str, Any] = {}
            run = model.decode
        else:
            pooled = architecture.config("text_encoder_2")["projection_dim"]
            ids = (config["projection_class_embeddings_input_dim"] - pooled) // config["addition_time_embed_dim"]
            inputs = {
                "timestep": torch.empty(rows),
                "encoder_hidden_states": torch.empty(rows, 77, config["cross_attention_dim"]),
                "added_cond_kwargs": {"text_embeds": torch.empty(rows, pooled), "time_ids": torch.empty(rows, ids)},
            }
            run = model
        peak = Peak([*model.parameters(), *model.buffers(), sample])
        with Efficient(), peak:
            run(sample, return_dict=False, **inputs)
    return peak.peak
