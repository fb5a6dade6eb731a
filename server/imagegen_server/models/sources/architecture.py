"""Model components from the configurations in `configs/`: their classes, sizes and empty modules.

A configuration directory looks like a diffusers model directory without weights. Only the classes named in
`_CLASSES` can be made from it; nothing in a configuration can name code to run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegen_server import shapes

if TYPE_CHECKING:
    from torch import nn

CONFIGS = Path(__file__).parent / "configs"
"""Where the configurations of Stable Diffusion XL are; the embedded pair has its own."""

_CLASSES: dict[str, tuple[str, str]] = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
}

MODULE_NAMES = tuple(_CLASSES)
"""Components that have weights."""

SHARED_MODULES = ("text_encoder_2", "vae")
"""Components that SDXL's refiner takes over from its base."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Architecture:
    """One half of a pair, as its configuration directory describes it."""

    directory: Path

    def index(self) -> dict[str, Any]:
        """Returns model_index.json."""
        return read_json(self.directory / "model_index.json")

    def config(self, component: str) -> dict[str, Any]:
        """Returns the configuration of a component."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_json(self.directory / component / name)

    def modules(self) -> tuple[str, ...]:
        """Returns the names of the components with weights."""
        index = self.index()
        return tuple(name for name in MODULE_NAMES if index.get(name, [None])[0] is not None)

    def instantiate(self, component: str) -> nn.Module:
        """Returns the component with the parameters that its class draws, where the caller's device context says."""
        return self._maker(component)()

    def outline(self, component: str) -> nn.Module:
        """Returns the component on torch's meta device: shapes and types without values, which allocates nothing."""
        import torch  # noqa: PLC0415 - heavy

        make = self._maker(component)  # before the context: the libraries compute with tensors while they are imported
        with torch.device("meta"):
            return make()

    def _maker(self, component: str) -> Callable[[], nn.Module]:
        """Imports what the component is made of, and returns what makes it."""
        made, config = module_class(component), self.config(component)
        if is_diffusers(component):
            return partial(made.from_config, config)
        from transformers import CLIPTextConfig  # noqa: PLC0415 - heavy

        return partial(made, CLIPTextConfig(**config))


def module_class(component: str) -> Any:
    """Returns the class of a component with weights; imports its library."""
    library, class_name = _CLASSES[component]
    return getattr(import_module(library), class_name)


def is_diffusers(component: str) -> bool:
    """Returns whether a component with weights is of diffusers; else it is of transformers."""
    return _CLASSES[component][0] == "diffusers"


SDXL_BASE = Architecture(directory=CONFIGS / "sdxl-base")
SDXL_REFINER = Architecture(directory=CONFIGS / "sdxl-refiner")
"""Stable Diffusion XL 1.0, as published."""

SHAPES_BASE = Architecture(directory=shapes.BASE)
SHAPES_REFINER = Architecture(directory=shapes.REFINER)
"""The embedded pair."""


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file. Raises OSError or ValueError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value
