"""What a UNet is told besides the latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(kw_only=True, frozen=True, slots=True)
class Conditioning:
    """What the UNet is told besides the latent; the rows are [negative, positive], or [positive] if unguided.

    Shared by all jobs of a generation.
    """

    embeddings: torch.Tensor
    """(rows, 77, width)."""
    pooled: torch.Tensor
    """(rows, width)."""
    time_ids: torch.Tensor
    """(rows, 5 or 6)."""

    @property
    def rows(self) -> int:
        """UNet batch rows of one evaluation."""
        return len(self.embeddings)
