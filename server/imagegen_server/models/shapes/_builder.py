"""Writes the embedded pair in diffusers' own format."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen_server.models.architecture import SHAPES_BASE, SHAPES_REFINER, SHARED_MODULES, Architecture
from imagegen_server.models.shapes._tokenizer import save_tokenizer

if TYPE_CHECKING:
    from torch import nn

BUILDER_VERSION = 1
"""Raised whenever what `build` writes changes, so that a cached pair is built anew."""

DEFAULT_SEED = 0


_SHARED = (*SHARED_MODULES, "tokenizer_2")


def build(directory: Path, *, seed: int = DEFAULT_SEED) -> None:
    """Writes `directory/base` and `directory/refiner`, each loadable by the plain `from_pretrained` of its pipeline.

    fp32 safetensors, about 23 MB with the shared parts of the refiner hard-linked to the base's. The tensors
    depend on the seed alone. `directory` is made if needed; raises FileExistsError if a half is already there.
    """
    base, refiner = directory / "base", directory / "refiner"
    for half in (base, refiner):
        half.mkdir(parents=True)
    _save_half(SHAPES_BASE, base, seed)
    _save_half(SHAPES_REFINER, refiner, seed + 1, exclude=_SHARED)
    for shared in _SHARED:
        _link_tree(base / shared, refiner / shared)


def ensure(cache_dir: Path | None = None, *, seed: int = DEFAULT_SEED) -> Path:
    """Returns a directory that holds the pair, building it on first use (a second or two).

    Safe with several processes: each builds aside and the first rename wins. `cache_dir` defaults to
    `user_cache_dir()`.
    """
    parent = cache_dir if cache_dir is not None else user_cache_dir()
    target = parent / f"shapes-v{BUILDER_VERSION}-seed{seed}"
    if target.is_dir():
        return target
    parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent))
    try:
        build(aside, seed=seed)
        aside.chmod(0o755)
        _rename_unless_there(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def user_cache_dir() -> Path:
    """Returns where this user's caches for ImageGen are: `$XDG_CACHE_HOME/imagegen`, else `~/.cache/imagegen`."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "imagegen"


def _rename_unless_there(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError:
        if not target.is_dir():  # another process being first is the one failure that is fine
            raise


def _save_half(half: Architecture, directory: Path, seed: int, *, exclude: tuple[str, ...] = ()) -> None:
    shutil.copyfile(half.directory / "model_index.json", directory / "model_index.json")
    shutil.copytree(half.directory / "scheduler", directory / "scheduler")
    for offset, name in enumerate(half.modules()):
        if name not in exclude:
            shutil.copytree(half.directory / name, directory / name)
            _save_weights(_drawn(half, name, seed * 100 + offset), directory / name, name)
    for name in ("tokenizer", "tokenizer_2"):
        if name not in exclude and half.index()[name][0] is not None:
            (directory / name).mkdir()
            save_tokenizer(directory / name)


def _drawn(half: Architecture, name: str, seed: int) -> nn.Module:
    import torch  # noqa: PLC0415 - heavy

    from imagegen_server.models.initialise import initialise  # noqa: PLC0415 - heavy

    with torch.device("meta"):
        module = half.instantiate(name)
    module = module.to_empty(device="cpu")
    initialise(module, seed)
    return module


def _save_weights(module: nn.Module, directory: Path, name: str) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415 - heavy

    tensors = module.state_dict()
    if not name.startswith("text_encoder"):
        save_file(tensors, directory / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        return
    # The names that SDXL's own files have. transformers 5 leaves the prefix away when it saves, older versions
    # and other programs expect it, and all of them load it.
    prefixed = {_checkpoint_name(key): tensor for key, tensor in tensors.items()}
    save_file(prefixed, directory / "model.safetensors", metadata={"format": "pt"})


def _checkpoint_name(key: str) -> str:
    return key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        try:
            (target / file.name).hardlink_to(file)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, target / file.name)
