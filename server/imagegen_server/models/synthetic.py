"""A pair with random weights, drawn on the device: full arithmetic and memory without a download.

The architecture is whatever configuration directories say; `synthetic-sdxl` takes Stable Diffusion XL's. Prompts
are tokenized with the embedded pair's tokenizer, which is built in code: its ids are far below the vocabulary of
SDXL's text encoders and its last id ends the text, so every embedding is real work. Images mean nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagegen_server.core import ModelProfile, Precision
from imagegen_server.models.loading import SHARED, Ground, LoadOptions, assemble, lay_ground, quiet_libraries, survey
from imagegen_server.models.memory.needs import Activations
from imagegen_server.models.memory.parts import activations_of, architecture_parts
from imagegen_server.models.precision import apply_matmul_mode, torch_dtype, vae_precision
from imagegen_server.models.sources.architecture import SDXL_BASE, SDXL_REFINER, Architecture

if TYPE_CHECKING:
    from torch import nn

    from imagegen_server.models.pair import LoadedPair

SEED = 0


def load_synthetic(
    profile: ModelProfile,
    *,
    options: LoadOptions,
    refiner: bool = True,
    architectures: tuple[Architecture, Architecture] = (SDXL_BASE, SDXL_REFINER),
    activations: Activations | None = None,
) -> LoadedPair:
    """Returns a pair with random weights of the architectures (base, refiner), the same for a device type and dtype.

    Raises what `survey`, `lay_ground` and `assemble` of `loading` raise.
    """
    first, second = architectures
    parts = architecture_parts(first, second if refiner else None)
    working = activations or activations_of(profile.name)
    ground = lay_ground(profile, parts, working, survey(options), options)
    apply_matmul_mode(ground.site.choice.precision)
    with quiet_libraries():
        base = _pipeline(first, ground, shared={})
        shared = {name: getattr(base, name) for name in SHARED}
        refined = _pipeline(second, ground, shared=shared) if refiner else None
    return assemble(profile, base, refined, ground)


def _pipeline(architecture: Architecture, ground: Ground, *, shared: dict[str, Any]) -> Any:
    import diffusers  # noqa: PLC0415 - heavy

    from imagegen_server.shapes.tokenizer import build_tokenizer  # noqa: PLC0415 - heavy

    index = architecture.index()
    components: dict[str, Any] = dict.fromkeys(("text_encoder", "tokenizer"))
    components |= {name: build_tokenizer() for name in ("tokenizer", "tokenizer_2") if index[name][0] is not None}
    components |= shared
    for offset, name in enumerate(architecture.modules()):
        if name not in shared:
            components[name] = _drawn(architecture, name, ground, SEED + offset)
    scheduler: Any = diffusers.EulerDiscreteScheduler
    components["scheduler"] = scheduler.from_config(architecture.config("scheduler"))
    flags = {key: value for key, value in index.items() if isinstance(value, bool)}
    return getattr(diffusers, index["_class_name"])(**components, **flags, add_watermarker=False)


def _drawn(architecture: Architecture, name: str, ground: Ground, seed: int) -> nn.Module:
    """Returns the module with its weights; one that takes turns on the device goes back to host memory at once."""
    import torch  # noqa: PLC0415 - heavy

    from imagegen_server.models.initialise import initialise  # noqa: PLC0415 - heavy

    module = architecture.outline(name)
    # nn.Module's own method: diffusers' warns of casts, and these tensors have no values yet.
    torch.nn.Module.to(module, _dtype(architecture, name, ground.site.choice.precision))
    module.to_empty(device=ground.site.device)
    initialise(module, seed)
    return module.to("cpu") if ground.memory.layout.groups else module


def _dtype(architecture: Architecture, name: str, precision: Precision) -> Any:
    if name != "vae":
        return torch_dtype(precision)
    upcast = architecture.config(name).get("force_upcast", True)
    return torch_dtype(vae_precision(precision, force_upcast=bool(upcast)))
