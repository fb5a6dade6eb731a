"""The safetensors files of a module: which of them are loaded, what they lack, and how many parameters they hold.

Reads indexes and headers only; imports no torch and loads no weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.sources.architecture import read_json
from imagegen_server.models.sources.foreign_files import MAX_HEADER_BYTES, PICKLES

VARIANT: Final = "fp16"
"""The variant of the files that half precision prefers."""

_STEMS: Final = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_SHARD: Final = r"-\d{5}-of-\d{5}"
_LENGTH_BYTES: Final = 8
"""What a safetensors file begins with: the length of its header."""


def choose_variants(files: Iterable[str], modules: Sequence[str], *, half: bool) -> Mapping[str, str | None]:
    """Returns the variant of each module to load, of the relative file names of a model.

    It is fp16 where `half` asks for it and every module has it, and for a module that has nothing else: full precision
    takes the full files that there are.
    """
    names = tuple(files)
    plain, variant = ({module for module in modules if weight_files(names, module, which)} for which in (None, VARIANT))
    everywhere = half and variant.issuperset(modules)
    return {
        module: VARIANT if module in variant and (everywhere or module not in plain) else None for module in modules
    }


def weight_files(files: Iterable[str], module: str, variant: str | None) -> tuple[str, ...]:
    """Returns a module's weights of a variant, whole or in shards, and the index of shards."""
    stem = re.escape(_STEMS.get(module, "model"))
    if variant is None:
        pattern = rf"{stem}({_SHARD})?\.safetensors|{stem}\.safetensors\.index\.json"
    else:
        weights = rf"{stem}(\.{variant}({_SHARD})?|{_SHARD}\.{variant})\.safetensors"
        pattern = rf"{weights}|{stem}\.safetensors\.index\.{variant}\.json"
    return tuple(name for name in files if re.fullmatch(rf"{module}/({pattern})", name))


def weights_lack(directory: Path, files: Sequence[str], module: str, variant: str | None) -> str:
    """Returns what a module's weights of a variant lack, in words fit for a message; empty if nothing."""
    found = weight_files(files, module, variant)
    weights = [name for name in found if name.endswith(".safetensors")]
    inside = {PurePosixPath(name).name for name in files if name.startswith(f"{module}/")}
    if not weights:
        if any(name.endswith(PICKLES) for name in inside):
            return f"{module} has its weights in pickle files, which can run code; convert them to safetensors"
        return f"{module} has no safetensors file"
    indexes = [name for name in found if name not in weights]
    if not indexes and all(re.search(_SHARD, name) for name in weights):
        return f"{module} has shards of weights without their index"
    for index in indexes:
        try:
            shards = {str(shard) for shard in dict(read_json(directory / index)["weight_map"]).values()}
        except (OSError, LookupError, TypeError, ValueError) as error:
            return f"{index} is no index of shards: {type(error).__name__}: {error}"
        if absent := shards - inside:
            return f"{module} lacks {', '.join(sorted(absent))}"
    return ""


def parameter_count(directory: Path, module: str, variant: str | None = None) -> int:
    """Returns the number of floating-point parameters in a module's safetensors files, from their headers.

    Raises `errors.WeightsUnavailable` for a file that is no safetensors file, or not whole.
    """
    folder = directory / module
    names = weight_files((f"{module}/{path.name}" for path in folder.glob("*.safetensors")), module, variant)
    return sum(_file_parameters(directory / name) for name in names)


def _file_parameters(path: Path) -> int:
    """Returns the number of parameters in a file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else None
        count, data = _parameters_and_bytes(header)
        size = path.stat().st_size
    except OSError as error:
        raise WeightsUnavailable(f"{path} cannot be read: {error.strerror}") from None
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise WeightsUnavailable(f"{path} is no safetensors file, or was cut") from None
    if size != _LENGTH_BYTES + length + data:
        raise WeightsUnavailable(
            f"{path} has {size} bytes and its header tells of {_LENGTH_BYTES + length + data}: it is not whole"
        )
    return count


def _parameters_and_bytes(header: Any) -> tuple[int, int]:
    """Returns how many parameters a header tells of, and how many bytes of data; raises whatever is wrong with it."""
    tensors = [value for key, value in header.items() if key != "__metadata__"]
    # Old CLIP files also store position ids, which are integers and no parameters.
    count = sum(math.prod(tensor["shape"]) for tensor in tensors if tensor["dtype"].startswith(("F", "BF")))
    return int(count), max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
