"""torch.compile for both UNets and the VAE's decoder: before the server serves, never on a request's path.

Compiled is what a tuning names (`regions` says in which pieces), for the batches it names. After that torch is told to
run anything it has no compiled code for as it is (`eager_on_recompile`), so that a request of another size costs no
compilation. Inductor keeps its results in a directory between starts. If compilation fails the server goes on without,
and says so.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from imagegen_server.core import Stage
from imagegen_server.models.evaluation.forward import Key
from imagegen_server.models.evaluation.group_norm import by_channels
from imagegen_server.models.evaluation.regions import compile_region, compile_whole, plain_again, regions
from imagegen_server.models.evaluation.tuning import Tuning

CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
"""Where Inductor keeps what it compiled; an operator's own value is left alone."""

BACKEND: Any = "inductor"
"""What torch.compile hands its graphs to."""


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
    plain_again((*unets.values(), vae))
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
    for unet in unets.values():
        if tuning.compile == "full":
            compile_whole(unet, backend=BACKEND)
        elif tuning.compile == "regional":
            for region in regions(unet):
                compile_region(region, backend=BACKEND, channels_last=tuning.channels_last)
    if tuning.compile != "none":
        for key in tuning.warm:
            warm(key)
    if tuning.compile_vae:
        by_channels((vae.decoder,), on=True)
        compile_whole(vae.decoder, backend=BACKEND)
        warm_vae()


def undo(modules: tuple[Any, ...]) -> None:
    """Takes the compiled code and its layout out of modules again and forgets all that was compiled."""
    plain_again(modules)
    by_channels(modules, on=False)
    torch.compiler.reset()  # before the layout: what was compiled may hold on to parameters
    with torch.inference_mode(False), torch.no_grad():  # else parameters become what normal code may not touch
        for module in modules:
            module.to(memory_format=torch.contiguous_format)  # channels last costs time where nothing is compiled
