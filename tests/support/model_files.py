"""Changes to the files of a model directory, as tests spoil or vary it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"
TEXT_ENCODER_2 = "text_encoder_2/model.safetensors"


def edit(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_weights(path: Path, part: str) -> None:
    """Takes the tensors out of a file whose names have a part."""
    kept = {name: tensor for name, tensor in load_file(path).items() if part not in name}
    save_file(kept, path, metadata={"format": "pt"})


def perturb(path: Path) -> None:
    """Adds noise to every tensor of a file, so that it says something else of everything."""
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(path)
    noise = {name: torch.randn(each.shape, generator=generator) for name, each in tensors.items()}
    changed = {name: (each + 0.3 * each.std() * noise[name]).to(each.dtype) for name, each in tensors.items()}
    save_file(changed, path, metadata={"format": "pt"})


def as_variant(path: Path) -> Path:
    """Renames a file of weights to one of the fp16 variant; what it holds stays."""
    return path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))


def shard(path: Path, *, index: bool = True) -> None:
    """Divides a file of weights in two, with an index or without."""
    tensors = load_file(path)
    names = list(tensors)
    places: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        name = f"{path.stem}-{number:05}-of-00002.safetensors"
        save_file({each: tensors[each] for each in part}, path.with_name(name), metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    path.unlink()
    if index:
        path.with_name(f"{path.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def use_scheduler(directory: Path, name: str, **settings: Any) -> None:
    """Gives a model another scheduler class, with settings besides those it has."""
    edit(directory / "scheduler" / "scheduler_config.json", _class_name=name, **settings)
    edit(directory / "model_index.json", scheduler=["diffusers", name])


def own_first_encoder(pair: Path) -> None:
    """Makes the pair's base its refiner too, with a first text encoder of other weights."""
    shutil.rmtree(pair / "refiner")
    shutil.copytree(pair / "base", pair / "refiner")
    perturb(pair / "refiner" / TEXT_ENCODER)
