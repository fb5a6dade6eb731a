"""Brings a loaded pair into the form that a tuning names, before the server serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from imagegen_server.core import Feature, Residency, Stage
from imagegen_server.models.evaluation.compilation import compile_pair, use_cache
from imagegen_server.models.evaluation.conditioning import Conditioning
from imagegen_server.models.evaluation.forward import Evaluate, Key, Plain
from imagegen_server.models.evaluation.graphs import Graphed, GraphMemory
from imagegen_server.models.evaluation.traced import Traced, worth_tracing
from imagegen_server.models.evaluation.tuning import Tuning
from imagegen_server.models.pair import LoadedPair


def prepare(
    pair: LoadedPair,
    unets: dict[Stage, Evaluate],
    tuning: Tuning,
    *,
    cache: Path | None,
    note: Callable[[Feature, str], None],
) -> None:
    """Lays out, compiles and warms up what the tuning names, and traces what is to be traced.

    Args:
        pair: the models, changed in place.
        unets: how they are evaluated; only these are prepared. Each batch that the tuning names is evaluated until its
            graph is captured.
        tuning: what was measured to be fastest.
        cache: where compiled code is kept between starts; None for torch's own place.
        note: hears of `compile` if compiling failed: the models run as they are then. Hears of `cuda_graphs` if there
            was no memory for some of them.
    """
    modules = {stage: pipelines(pair)[stage].unet for stage in unets}
    if tuning.channels_last:
        for unet in modules.values():
            unet.to(memory_format=torch.channels_last)
    if tuning.compile_vae:
        pair.base.vae.decoder.to(memory_format=torch.channels_last)
    if tuning.compile != "none" or tuning.compile_vae:
        use_cache(cache)
        try:
            with torch.inference_mode():
                compile_pair(
                    modules,
                    pair.base.vae,
                    tuning,
                    warm=lambda key: _evaluate_all(pair, unets, key),
                    warm_vae=lambda: warm_vae(pair),
                )
        except Exception as error:  # noqa: BLE001 - whatever a compiler raises, the models still run without it
            note(Feature.COMPILE, f"{type(error).__name__}: {str(error)[:500]}")
    with torch.inference_mode():
        _capture(pair, unets, tuning.warm, note)
        for stage, unet in unets.items():
            if isinstance(unet, Traced):
                _trace(pair, stage, unet)


def _capture(
    pair: LoadedPair, unets: dict[Stage, Evaluate], keys: Iterable[Key], note: Callable[[Feature, str], None]
) -> None:
    """Captures the graphs of some batches, as many as the memory allows."""
    graphed = {stage: unet for stage, unet in unets.items() if isinstance(unet, Graphed)}
    if not graphed:
        return
    for key in keys:
        try:
            for _ in range(2):  # as it is, then captured
                _evaluate_all(pair, graphed, key)
        except torch.OutOfMemoryError:
            note(Feature.CUDA_GRAPHS, f"no memory for {key[0]} rows of {key[1]}x{key[2]} latents")
            return
        if any(key not in unet.captured_keys() for unet in graphed.values()):
            return  # for what comes next there is hardly more memory


def _trace(pair: LoadedPair, stage: Stage, unet: Traced) -> None:
    """Traces a UNet at two rows of a small latent, and checks it with one row of a wider latent too."""
    side = 2 * unet.multiple
    unet.trace(example(pair, stage, (2, side, side)), example(pair, stage, (1, side, 2 * side)))


def pipelines(pair: LoadedPair) -> dict[Stage, Any]:
    """Returns the pipeline of each step stage that is loaded."""
    both = {Stage.BASE: pair.base, Stage.REFINER: pair.refiner}
    return {stage: pipeline for stage, pipeline in both.items() if pipeline is not None}


def evaluators(pair: LoadedPair, tuning: Tuning, note: Callable[[Feature, str], None]) -> dict[Stage, Evaluate]:
    """Returns how each UNet is evaluated: on a GPU from graphs if its weights stay, on a CPU traced if it is small.

    `note` hears of `cuda_graphs` where a batch cannot be captured, and of `torchscript` where a trace is given up.
    """
    unets = {stage: pipeline.unet for stage, pipeline in pipelines(pair).items()}
    if pair.device.type == "cpu" and tuning.compile == "none":
        give_up = partial(note, Feature.TORCHSCRIPT)
        return {
            stage: Traced(unet, on_failure=give_up) if worth_tracing(unet) else Plain(unet)
            for stage, unet in unets.items()
        }
    still = pair.device.type == "cuda" and pair.layout.residency is Residency.BOTH
    if not still or not tuning.cuda_graphs:
        return {stage: Plain(unet) for stage, unet in unets.items()}
    memory, on_failure = GraphMemory(), partial(note, Feature.CUDA_GRAPHS)
    return {stage: Graphed(unet, memory=memory, on_failure=on_failure) for stage, unet in unets.items()}


def example(pair: LoadedPair, stage: Stage, key: Key) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Returns sample, timesteps and conditioning of a batch, of noise."""
    unet = pipelines(pair)[stage].unet.config
    pooled = pair.base.text_encoder_2.config.projection_dim
    ids = (unet.projection_class_embeddings_input_dim - pooled) // unet.addition_time_embed_dim
    rows, height, width = key

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=pair.device, dtype=pair.dtype)

    conditioning = Conditioning(
        embeddings=noise(rows, 77, unet.cross_attention_dim), pooled=noise(rows, pooled), time_ids=noise(rows, ids)
    )
    timesteps = torch.full((rows,), 500.0, device=pair.device)
    return noise(rows, unet.in_channels, height, width), timesteps, conditioning


def warm_vae(pair: LoadedPair) -> torch.Tensor:
    """Returns the VAE's image of a latent of noise of the native size: zeros take less power, and less time."""
    pair.bring(Stage.VAE_DECODE)
    defaults, factor, vae = pair.profile.defaults, pair.base.vae_scale_factor, pair.base.vae
    shape = (1, vae.config.latent_channels, defaults.height // factor, defaults.width // factor)
    latents = torch.randn(shape, device=pair.device, dtype=vae.dtype)
    image: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return image


def _evaluate_all(pair: LoadedPair, unets: Mapping[Stage, Evaluate], key: Key) -> None:
    for stage, unet in unets.items():
        pair.bring(stage)
        unet(*example(pair, stage, key))
