"""Loads a component with weights through the libraries' own methods: all of it, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.quiet import weights_reported
from imagegen_server.models.sources.architecture import is_diffusers, module_class

if TYPE_CHECKING:
    import torch
    from torch import nn

_log = logging.getLogger(__name__)

_NAMED: Final = 3
"""Weights that a message names."""


def load_component(directory: Path, name: str, *, dtype: torch.dtype, variant: str | None) -> nn.Module:
    """Returns a component of the model in a directory.

    Raises `errors.WeightsUnavailable` if it cannot be loaded, or if weights of it are missing: transformers would draw
    those, and diffusers leave them without values. Position ids, which old files have and others not, are no weights.
    """
    # transformers names what has another shape in its table only, unless it is told to go on; diffusers says it all
    own = {"torch_dtype": dtype} if is_diffusers(name) else {"dtype": dtype, "ignore_mismatched_sizes": True}
    with failures_named(directory, name), weights_reported():
        module, info = module_class(name).from_pretrained(
            directory / name,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **own,
        )
    if reshaped := [key for key, *_ in info["mismatched_keys"]]:
        raise _unlike(directory, name, "have another shape", reshaped)
    if missing := _weights(info["missing_keys"]):
        raise _unlike(directory, name, "lack", missing)
    if unknown := _weights(info["unexpected_keys"]):
        _log.warning("%s has weights for which %s has no place: %s", directory, name, _first_of(unknown))
    loaded: nn.Module = module
    return loaded


def _weights(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith("position_ids")]


@contextmanager
def failures_named(directory: Path, component: str = "") -> Iterator[None]:
    """Turns whatever the libraries raise for files that they cannot load into one error with the place."""
    try:
        yield
    except Exception as error:
        what = f"{component}: {type(error).__name__}" if component else type(error).__name__
        raise WeightsUnavailable(f"{directory} cannot be loaded: {what}: {error}") from error


def _unlike(directory: Path, name: str, how: str, weights: Iterable[str]) -> WeightsUnavailable:
    """Returns the error for weights that are not those of the configuration."""
    return WeightsUnavailable(f"{directory} cannot be loaded: the weights of {name} {how}: {_first_of(weights)}")


def _first_of(names: Iterable[str]) -> str:
    """Returns the first few of the names, for a message."""
    every = sorted(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
