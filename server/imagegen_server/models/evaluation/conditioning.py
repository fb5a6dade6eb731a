"""What a UNet is told besides the latent."""

from __future__ import annotations

from collections.abc import Sequence
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
    projections: tuple[torch.Tensor, ...] = ()
    """What `Evaluate.project` has made of the others, once for all steps; the first dimension of each is the rows."""

    @property
    def rows(self) -> int:
        """UNet batch rows of one evaluation."""
        return len(self.embeddings)


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """Returns the conditioning of a batch, the rows of its jobs one after the other.

    Projections are joined if every part has them.
    """
    projected = all(part.projections for part in parts)
    return Conditioning(
        embeddings=torch.cat([part.embeddings for part in parts]),
        pooled=torch.cat([part.pooled for part in parts]),
        time_ids=torch.cat([part.time_ids for part in parts]),
        projections=tuple(map(torch.cat, zip(*(part.projections for part in parts), strict=True))) if projected else (),
    )
