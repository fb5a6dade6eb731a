"""torch.compile for both UNets and the VAE's decoder: before the server serves, never on a request's path.

Compiled is what a tuning names, for the batches it names. After that torch is told to run anything it has no compiled
code for as it is (`eager_on_recompile`), so that a request of another size costs no compilation. Inductor keeps its
results in a directory between starts. If compilation fails the server goes on without, and says so.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from imagegen_server.core import Stage
from imagegen_server.models.forward import Key
from imagegen_server.models.tuning import Tuning

CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
"""Where Inductor keeps what it compiled; an operator's own value is left alone."""

BACKEND: Any = "inductor"
"""What torch.compile hands its graphs to."""

_DYNAMO_LIMIT: Final = 64
"""Variants of one piece of code that may be compiled: each pair of shape and rows is one."""


def use_cache(directory: Path | None) -> None:
    """Lets Inductor keep what it compiles in a directory, unless the environment names one already."""
    if directory is not None:
        os.environ.setdefault(CACHE_VARIABLE, str(directory / "inductor"))


def compile_pair(
    unets: dict[Stage, Any], vae: Any, tuning: Tuning, *, warm: Callable[[Key], None], warm_vae: Callable[[], object]
) -> None:
    """Compiles in place what the tuning names, and runs it once for each batch named.

    Args:
        unets: the UNet of each step stage.
        vae: the AutoencoderKL.
        tuning: what to compile and for which batches.
        warm: evaluates every UNet at (rows, latent height, latent width).
        warm_vae: decodes one image of the native size.

    Raises what torch.compile raises, with everything as it was before.
    """
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, _DYNAMO_LIMIT)
    torch.compiler.set_stance("default")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on diffusers' code, which whoever reads the log cannot change
            _compile(unets, vae, tuning, warm, warm_vae)
    except Exception:
        undo((*unets.values(), vae))
        raise
    torch.compiler.set_stance("eager_on_recompile")


def _compile(
    unets: dict[Stage, Any],
    vae: Any,
    tuning: Tuning,
    warm: Callable[[Key], None],
    warm_vae: Callable[[], object],
) -> None:
    if tuning.compile != "none":
        for unet in unets.values():
            _compile_unet(unet, whole=tuning.compile == "full")
        for key in tuning.warm:
            warm(key)
    if tuning.compile_vae:
        vae.decoder.compile(fullgraph=True, dynamic=False, backend=BACKEND)
        warm_vae()


def undo(modules: tuple[Any, ...]) -> None:
    """Takes the compiled code out of modules again."""
    for module in modules:
        for part in module.modules():
            part._compiled_call_impl = None  # what nn.Module.compile sets; it has no way back of its own
    torch.compiler.reset()


def _compile_unet(unet: Any, *, whole: bool) -> None:
    if whole:
        unet.compile(fullgraph=True, dynamic=False, backend=BACKEND)
    else:
        unet.compile_repeated_blocks(fullgraph=True, backend=BACKEND)
