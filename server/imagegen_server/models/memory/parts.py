"""The sizes of a pair's parts before it is loaded, from files or from configurations."""

from __future__ import annotations

from pathlib import Path

from imagegen_server.models.memory.needs import SDXL_ACTIVATIONS, SHAPES_ACTIVATIONS, Activations, Part
from imagegen_server.models.memory.residency import BASE_UNET, REFINER_TEXT_ENCODER, REFINER_UNET, VAE
from imagegen_server.models.profiles import SHAPES
from imagegen_server.models.sources.architecture import (
    SDXL_BASE,
    SDXL_REFINER,
    SHAPES_BASE,
    SHAPES_REFINER,
    SHARED_MODULES,
    Architecture,
    read_json,
)
from imagegen_server.models.sources.model_directory import variants_of
from imagegen_server.models.sources.weight_files import parameter_count

_OF_THE_REFINER = {"unet": REFINER_UNET, "text_encoder": REFINER_TEXT_ENCODER}
"""Names of its own parts."""


def directory_parts(base: Path, refiner: Path | None, *, half: bool) -> tuple[Part, ...]:
    """Returns the parts of a pair in local directories, from safetensors headers; shared parts count once.

    `half` says whether half precision is loaded, which chooses the files. Raises `errors.WeightsUnavailable` for a file
    that is no safetensors file, or not whole.
    """
    parts = [_from_files(base, *each) for each in variants_of(base, half=half).items()]
    if refiner is not None:
        own = variants_of(refiner, half=half, exclude=SHARED_MODULES)
        parts += [_from_files(refiner, *each, stage="refiner") for each in own.items()]
    return tuple(parts)


def architecture_parts(base: Architecture, refiner: Architecture | None) -> tuple[Part, ...]:
    """Returns the parts of a pair that is not there yet, by building it without memory (on torch's meta device)."""
    parts = [_from_config(base, name) for name in base.modules()]
    if refiner is not None:
        own = [name for name in refiner.modules() if name not in SHARED_MODULES]
        parts += [_from_config(refiner, name, stage="refiner") for name in own]
    return tuple(parts)


def published_pair(profile_name: str) -> tuple[Architecture, Architecture]:
    """Returns the architectures of a profile's base and refiner."""
    return (SHAPES_BASE, SHAPES_REFINER) if profile_name == SHAPES else (SDXL_BASE, SDXL_REFINER)


def activations_of(profile_name: str) -> Activations:
    """Returns the activations of a profile's architecture."""
    return SHAPES_ACTIVATIONS if profile_name == SHAPES else SDXL_ACTIVATIONS


def _from_files(directory: Path, module: str, variant: str | None, stage: str = "base") -> Part:
    config = read_json(directory / module / "config.json")
    return Part(
        name=_name(module, stage),
        parameters=parameter_count(directory, module, variant),
        force_upcast=_force_upcast(module, config.get("force_upcast")),
    )


def _from_config(architecture: Architecture, module: str, stage: str = "base") -> Part:
    built = architecture.outline(module)
    return Part(
        name=_name(module, stage),
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        force_upcast=_force_upcast(module, architecture.config(module).get("force_upcast")),
    )


def _name(module: str, stage: str) -> str:
    return (_OF_THE_REFINER if stage == "refiner" else {"unet": BASE_UNET}).get(module, module)


def _force_upcast(module: str, configured: bool | None) -> bool:
    """Returns whether the part is a VAE that overflows in fp16; diffusers takes an unset value for true."""
    return module == VAE and configured is not False
