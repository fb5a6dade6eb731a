"""One evaluation of a UNet as it is, and what other ways of evaluating it have in common with that."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from imagegen_server.models.evaluation.conditioning import Conditioning

Key = tuple[int, int, int]
"""Rows, latent height, latent width."""


class Evaluate(Protocol):
    """Evaluates a UNet."""

    def __call__(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Returns the prediction, (rows, channels, height, width), which is the caller's.

        Args:
            sample: scaled latents, (rows, channels, height, width).
            timesteps: (rows,), fp32.
            conditioning: of as many rows.
        """
        ...

    def project(self, conditioning: Conditioning) -> Conditioning:
        """Returns the conditioning of a generation with what every step would make of it, if that pays."""
        ...

    def clear(self) -> None:
        """Frees what is kept besides the weights."""
        ...


class Plain:
    """Calls the UNet."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """See `Evaluate`."""
        return call(self._module, sample, timesteps, conditioning)

    def project(self, conditioning: Conditioning) -> Conditioning:
        """Leaves all of it to the steps, as diffusers does."""
        return conditioning

    def clear(self) -> None:
        """Keeps nothing."""


def call(module: Any, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """Returns what a diffusers UNet predicts."""
    prediction: torch.Tensor = module(
        sample,
        timesteps,
        encoder_hidden_states=conditioning.embeddings,
        added_cond_kwargs={"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids},
        return_dict=False,
    )[0]
    return prediction
