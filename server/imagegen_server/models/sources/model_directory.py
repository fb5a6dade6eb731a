"""A model directory in diffusers' format: what must be in it, what must not, and how large its parts are.

Reads configurations and safetensors headers only; imports no torch and loads no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.sources.architecture import MODULE_NAMES, read_json
from imagegen_server.models.sources.foreign_files import foreign_files
from imagegen_server.models.sources.weight_files import choose_variants, weight_files, weights_lack

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
_FIRST_ENCODER = {"text_encoder", "tokenizer"}
"""What SDXL's refiner has none of."""
_DESCRIPTIONS = {
    "config.json",
    "scheduler_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
}
"""What the libraries read of a component besides its weights, in JSON."""


def wanted_files(files: Iterable[str], components: Sequence[str], *, half: bool) -> tuple[str, ...]:
    """Returns the files, of a repository's relative names, that loading the components needs.

    Safetensors only, of each module in the variant that `choose_variants` says. Never pickles or code.
    """
    names = tuple(files)
    variants = choose_variants(names, [name for name in components if name in MODULE_NAMES], half=half)
    wanted = {name for name in names if _is_description(name, components)}
    return tuple(sorted(wanted.union(*(weight_files(names, module, variant) for module, variant in variants.items()))))


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
    kind = str(index.get("_class_name"))
    if kind not in _PIPELINES:
        raise WeightsUnavailable(f"{directory} is a {kind}, not a Stable Diffusion XL pipeline")
    named = [name for name, entry in index.items() if isinstance(entry, list) and entry and entry[0] is not None]
    named = [name for name in named if not name.startswith("_")]
    foreign = [f"component {name} is {'.'.join(map(str, index[name]))}" for name in named if not _is_own(name, index)]
    if foreign:
        raise WeightsUnavailable(
            f"{directory}: {', '.join(foreign)}; only the classes of diffusers' own "
            "Stable Diffusion XL pipelines are loaded, never code that comes with a model"
        )
    known = {*_ALLOWED_CLASSES, "scheduler"}
    return tuple(name for name in named if name in known and name not in exclude)


def missing_files(directory: Path, components: Sequence[str], *, half: bool) -> tuple[str, ...]:
    """Returns what the directory lacks to load the components, in words fit for a message.

    `half` says whether half precision is loaded, which chooses the files of weights.
    """
    files = relative_files(directory)
    variants = choose_variants(files, [name for name in components if name in MODULE_NAMES], half=half)
    lacks = (_lack(directory, files, name, variants.get(name)) for name in components)
    return tuple(lack for lack in lacks if lack)


def check_directory(directory: Path, *, exclude: Sequence[str] = (), half: bool | None = None) -> None:
    """Raises `errors.WeightsUnavailable` unless the directory can be loaded from safetensors, without any code.

    `exclude` names the components that come from elsewhere; with some, it is a refiner's directory. `half` says whether
    half precision will be loaded; if that is not known (None), files for either are enough. The message names
    everything that is wrong.
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
        if unnamed := _unnamed(components, exclude):
            what = "refiner" if exclude else "base"
            problems.append(f"{directory} is no {what}: its model_index.json names no {', '.join(unnamed)}")
        either = (False, True) if half is None else (half,)
        lacks = [missing_files(directory, components, half=each) for each in either]
        if all(lacks):
            problems.append(f"{directory} is incomplete: {'; '.join(lacks[0])}")
        problems += _unreadable(directory, components)
    if problems:
        raise WeightsUnavailable("; ".join(problems))


def variants_of(directory: Path, *, half: bool, exclude: Sequence[str] = ()) -> Mapping[str, str | None]:
    """Returns the variant to load of each module that is not excluded: see `choose_variants`."""
    modules = [name for name in components_of(directory, exclude=exclude) if name in MODULE_NAMES]
    return choose_variants(relative_files(directory), modules, half=half)


def _is_own(name: str, index: dict[str, Any]) -> bool:
    """Tells whether a component is of a class that is loaded."""
    entry = index[name]
    if len(entry) != 2 or not all(isinstance(part, str) for part in entry):
        return False
    library, class_name = entry
    if name == "scheduler" and not class_name.endswith("Scheduler"):
        return False
    return library in _LIBRARIES and class_name in _ALLOWED_CLASSES.get(name, {class_name})


def _index(directory: Path) -> dict[str, Any]:
    try:
        return read_json(directory / "model_index.json")
    except FileNotFoundError:
        raise WeightsUnavailable(f"{directory} has no model_index.json: it is no model in diffusers' format") from None
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"{directory}: model_index.json cannot be read: {error}") from None


def _is_description(name: str, components: Sequence[str]) -> bool:
    path = PurePosixPath(name)
    if len(path.parts) == 1:
        return name == "model_index.json"
    folder = path.parts[0]
    if len(path.parts) != 2 or folder not in components or ".index." in path.name:
        return False
    return path.suffix == ".json" or (folder in TOKENIZERS and path.suffix == ".txt")


def _unnamed(components: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Returns the components that a base, or a refiner that takes `exclude` from it, needs besides these."""
    needed = {*_ALLOWED_CLASSES, "scheduler"} - {*exclude}
    if exclude and not _FIRST_ENCODER & {*components}:
        needed -= _FIRST_ENCODER
    return sorted(needed - {*components})


def _unreadable(directory: Path, components: Sequence[str]) -> Iterator[str]:
    """Yields what is wrong with the descriptions of components."""
    for component in components:
        for path in sorted((directory / component).glob("*.json")):
            if path.name not in _DESCRIPTIONS:
                continue
            try:
                read_json(path)
            except (OSError, ValueError) as error:
                yield f"{path} cannot be read: {error}"


def _lack(directory: Path, files: Sequence[str], name: str, variant: str | None) -> str:
    inside = {PurePosixPath(file).name for file in files if file.startswith(f"{name}/")}
    if name == "scheduler":
        return "" if "scheduler_config.json" in inside else "scheduler/scheduler_config.json is missing"
    if name in TOKENIZERS:
        whole = "tokenizer.json" in inside or {"vocab.json", "merges.txt"} <= inside
        return "" if whole else f"{name} has neither tokenizer.json nor vocab.json and merges.txt"
    if "config.json" not in inside:
        return f"{name}/config.json is missing"
    return weights_lack(directory, files, name, variant)
