"""The pair's directories: modules from the configurations in them, and weights into them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from imagegen_server import shapes
from imagegen_server.models.sources.architecture import SHARED_MODULES, Architecture, read_json
from imagegen_server.shapes.tokenizer import build_tokenizer, save_tokenizer
from imagegen_server.shapes.train.text import Encoders

TOKENIZERS = ("tokenizer", "tokenizer_2")


def prepare(directory: Path) -> None:
    """Copies the shipped configurations to another directory; tokenizers are written, with the ids in both encoders."""
    for half in ("base", "refiner"):
        for config in (shapes.DIRECTORY / half).rglob("*.json"):
            target = directory / half / config.relative_to(shapes.DIRECTORY / half)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target != config and "tokenizer" not in config.parts[-2]:
                shutil.copyfile(config, target)
    tokenizer = build_tokenizer()
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for half in ("base", "refiner"):
        for name in TOKENIZERS:
            if (directory / half / name.replace("tokenizer", "text_encoder")).is_dir():
                (directory / half / name).mkdir(exist_ok=True)
                save_tokenizer(directory / half / name)
        for config in (directory / half).glob("text_encoder*/config.json"):
            write_json(config, read_json(config) | ids)


def module(directory: Path, half: str, component: str, seed: int) -> Any:
    """Returns a component with the weights that its class draws for a seed."""
    torch.manual_seed(seed)
    return Architecture(directory=directory / half).instantiate(component)


def encoders(directory: Path, seed: int) -> Encoders:
    """Returns new text encoders, with the tokenizer."""
    return Encoders(
        first=module(directory, "base", "text_encoder", seed),
        second=module(directory, "base", "text_encoder_2", seed),
        tokenizer=build_tokenizer(),
    )


def save(weights: nn.Module, directory: Path, half: str, component: str) -> None:
    """Writes a component's weights in half precision; what the halves share goes into both.

    Text encoders get the names that SDXL's own files have: transformers 5 leaves the prefix away when it saves, other
    programs expect it, and all of them load it.
    """
    tensors = {
        key: tensor.detach().to("cpu", torch.float16).contiguous() for key, tensor in weights.state_dict().items()
    }
    name = "diffusion_pytorch_model.safetensors"
    if component.startswith("text_encoder"):
        name = "model.safetensors"
        tensors = {
            key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": tensor
            for key, tensor in tensors.items()
            if not key.endswith("position_ids")
        }
    halves = ("base", "refiner") if component in SHARED_MODULES else (half,)
    for owner in halves:
        save_file(tensors, directory / owner / component / name, metadata={"format": "pt"})


def set_scaling_factor(directory: Path, factor: float) -> None:
    """Writes what makes the latents' standard deviation one, as SDXL's 0.13025 does for its own."""
    for half in ("base", "refiner"):
        path = directory / half / "vae" / "config.json"
        write_json(path, read_json(path) | {"scaling_factor": factor})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a configuration as diffusers does: indented, keys sorted."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
