"""A model directory in diffusers' format: what must be in it, what must not, and how large its parts are.

Reads configurations and safetensors headers only; imports no torch and loads no weights.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.sources.architecture import MODULE_NAMES, read_json
from imagegen_server.models.sources.foreign_files import MAX_HEADER_BYTES, PICKLES, foreign_files

VARIANT = "fp16"
"""The variant of the files that half precision prefers."""

TOKENIZERS = ("tokenizer", "tokenizer_2")

_ALLOWED_CLASSES = {
    "unet": {"UNet2DConditionModel"},
    "vae": {"AutoencoderKL"},
    "text_encoder": {"CLIPTextModel"},
    "text_encoder_2": {"CLIPTextModelWithProjection"},
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "tokenizer_2": {"CLIPTokenizer", "CLIPTokenizerFast"},
}
_PIPELINES = {"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"}
_LIBRARIES = {"diffusers", "transformers"}
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


def has_variant(files: Iterable[str], modules: Sequence[str]) -> bool:
    """Tells whether every module has fp16 safetensors among the relative file names."""
    names = tuple(files)
    return all(any(_is_weights(name, module, variant=True) for name in names) for module in modules)


def wanted_files(files: Iterable[str], components: Sequence[str], *, half: bool) -> tuple[str, ...]:
    """Returns the files, of a repository's relative names, that loading the components needs.

    Safetensors only, in the fp16 variant where `half` asks for it and every module has it. Never pickles or code.
    """
    names = tuple(files)
    modules = [name for name in components if name in MODULE_NAMES]
    plain = all(any(_is_weights(name, module, variant=False) for name in names) for module in modules)
    variant = has_variant(names, modules) and (half or not plain)
    wanted = [name for name in names if _is_description(name, components)]
    wanted += [name for module in modules for name in names if _is_weights(name, module, variant=variant)]
    return tuple(sorted(set(wanted)))


def relative_files(directory: Path) -> tuple[str, ...]:
    """Returns the names of the files that belong to the model, relative and with forward slashes."""
    return tuple(
        sorted(
            path.relative_to(directory).as_posix()
            for path in (*directory.glob("*"), *directory.glob("*/*"))
            if path.is_file()
        )
    )


def components_of(directory: Path, *, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the components that the model names and that are not excluded.

    Raises `errors.WeightsUnavailable` if model_index.json is missing or names anything but SDXL's own classes.
    """
    index = _index(directory)
    if index.get("_class_name") not in _PIPELINES:
        raise WeightsUnavailable(f"{directory} is a {index.get('_class_name')}, not a Stable Diffusion XL pipeline")
    named = [name for name in index if not name.startswith("_") and isinstance(index[name], list) and index[name][0]]
    foreign = [f"component {name} is {'.'.join(map(str, index[name]))}" for name in named if not _is_own(name, index)]
    if foreign:
        raise WeightsUnavailable(
            f"{directory}: {', '.join(foreign)}; only the classes of diffusers' own "
            "Stable Diffusion XL pipelines are loaded, never code that comes with a model"
        )
    known = {*_ALLOWED_CLASSES, "scheduler"}
    return tuple(name for name in named if name in known and name not in exclude)


def missing_files(directory: Path, components: Sequence[str]) -> tuple[str, ...]:
    """Returns what the directory lacks to load the components, in words fit for a message."""
    files = relative_files(directory)
    return tuple(lack for name in components if (lack := _lack(directory, files, name)))


def check_directory(directory: Path, *, exclude: Sequence[str] = ()) -> None:
    """Raises `errors.WeightsUnavailable` unless the directory can be loaded from safetensors, without any code.

    The message names everything that is wrong.
    """
    if not directory.is_dir():
        raise WeightsUnavailable(f"{directory} is not a directory")
    foreign = foreign_files(directory)
    problems = [f"{directory} has files that must not be there, remove them: {'; '.join(foreign)}"] if foreign else []
    try:
        components = components_of(directory, exclude=exclude)
    except WeightsUnavailable as error:
        problems.append(str(error))
    else:
        if missing := missing_files(directory, components):
            problems.append(f"{directory} is incomplete: {'; '.join(missing)}")
    if problems:
        raise WeightsUnavailable("; ".join(problems))


def variant_of(directory: Path, *, half: bool, exclude: Sequence[str] = ()) -> str | None:
    """Returns the variant to load: fp16 if every module has it and precision asks for it or nothing else is there."""
    modules = [name for name in components_of(directory, exclude=exclude) if name in MODULE_NAMES]
    files = wanted_files(relative_files(directory), modules, half=half)
    return VARIANT if modules and has_variant(files, modules) else None


def parameter_count(directory: Path, module: str) -> int:
    """Returns the number of floating-point parameters in a module's safetensors files, from their headers.

    Raises `errors.WeightsUnavailable` for a file that is no safetensors file.
    """
    names = wanted_files(relative_files(directory), [module], half=False)
    return sum(_file_parameters(directory / name) for name in names if name.endswith(".safetensors"))


def _is_own(name: str, index: dict[str, Any]) -> bool:
    """Tells whether a component is of a class that is loaded."""
    if len(index[name]) != 2:
        return False
    library, class_name = index[name]
    if name == "scheduler" and not str(class_name).endswith("Scheduler"):
        return False
    return library in _LIBRARIES and class_name in _ALLOWED_CLASSES.get(name, {class_name})


def _index(directory: Path) -> dict[str, Any]:
    try:
        return read_json(directory / "model_index.json")
    except FileNotFoundError:
        raise WeightsUnavailable(f"{directory} has no model_index.json: it is no model in diffusers' format") from None
    except ValueError as error:
        raise WeightsUnavailable(f"{directory}: model_index.json cannot be read: {error}") from None


def _is_description(name: str, components: Sequence[str]) -> bool:
    path = PurePosixPath(name)
    if len(path.parts) == 1:
        return name == "model_index.json"
    folder = path.parts[0]
    if len(path.parts) != 2 or folder not in components or ".index." in path.name:
        return False
    return path.suffix == ".json" or (folder in TOKENIZERS and path.suffix == ".txt")


def _is_weights(name: str, module: str, *, variant: bool) -> bool:
    """Tells whether a file holds the module's weights, whole or in shards, or is the index of its shards."""
    stem = re.escape(_STEMS.get(module, "model"))
    shard = r"-\d{5}-of-\d{5}"
    if variant:
        weights = rf"{stem}(\.{VARIANT}({shard})?|{shard}\.{VARIANT})\.safetensors"
        pattern = rf"{weights}|{stem}\.safetensors\.index\.{VARIANT}\.json"
    else:
        pattern = rf"{stem}({shard})?\.safetensors|{stem}\.safetensors\.index\.json"
    return re.fullmatch(rf"{module}/({pattern})", name) is not None


def _lack(directory: Path, files: Sequence[str], name: str) -> str:
    inside = {PurePosixPath(file).name for file in files if file.startswith(f"{name}/")}
    if name == "scheduler":
        return "" if "scheduler_config.json" in inside else "scheduler/scheduler_config.json is missing"
    if name in TOKENIZERS:
        whole = "tokenizer.json" in inside or {"vocab.json", "merges.txt"} <= inside
        return "" if whole else f"{name} has neither tokenizer.json nor vocab.json and merges.txt"
    if "config.json" not in inside:
        return f"{name}/config.json is missing"
    return _weights_lack(directory, files, name, inside)


def _weights_lack(directory: Path, files: Sequence[str], name: str, inside: set[str]) -> str:
    wanted = wanted_files(files, [name], half=False)
    weights = [file for file in wanted if file.endswith(".safetensors")]
    if not weights:
        if any(file.endswith(PICKLES) for file in inside):
            return f"{name} has its weights in pickle files, which can run code; convert them to safetensors"
        return f"{name} has no safetensors file"
    for index in (file for file in wanted if ".index" in file):
        shards = set(read_json(directory / index)["weight_map"].values())
        if absent := shards - inside:
            return f"{name} lacks {', '.join(sorted(absent))}"
    return ""


def _file_parameters(path: Path) -> int:
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= MAX_HEADER_BYTES:
            raise WeightsUnavailable(f"{path} is no safetensors file")
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise WeightsUnavailable(f"{path} is no safetensors file, or was cut") from None
    tensors = [value for key, value in header.items() if key != "__metadata__"]
    # Old CLIP files also store position ids, which are integers and no parameters.
    return sum(math.prod(tensor["shape"]) for tensor in tensors if tensor["dtype"].startswith(("F", "BF")))
