"""What a generation will execute, and what departs from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from imagegen_server.core.words import FallbackKind, FallbackReason, Precision, RefinerMode, Stage

LatentShape: TypeAlias = tuple[int, int]
"""Height and width of a latent."""


@dataclass(kw_only=True, frozen=True, slots=True)
class StagePlan:
    """What one device stage will execute for each image."""

    stage: Stage
    steps: int
    """Denoising steps; 0 for stages without steps."""
    evaluations: int
    """Turns on the device: UNet passes in step stages, 1 in the others."""
    guidance_scale: float
    """0 for stages without guidance."""

    @property
    def rows(self) -> int:
        """UNet batch rows of one evaluation: 2 if guided, else 1 (a stage without steps counts 1)."""
        return 2 if self.guidance_scale > 1.0 else 1


@dataclass(kw_only=True, frozen=True, slots=True)
class Plan:
    """What a generation will execute."""

    stages: tuple[StagePlan, ...]
    """The device stages in order: text_encode, base, refiner (unless absent), vae_decode."""
    latent_shape: LatentShape
    """Jobs share a batch only at the same shape."""
    precision: Precision
    refiner_mode: RefinerMode | None
    unplanned_fallback: FallbackReason | None = None
    """Set if the refiner was asked for but cannot run (not_loaded) and the fallback is allowed."""

    def stage(self, stage: Stage) -> StagePlan:
        """Returns the plan of a stage; KeyError if the stage is not planned."""
        for planned in self.stages:
            if planned.stage is stage:
                return planned
        raise KeyError(stage)


@dataclass(kw_only=True, frozen=True, slots=True)
class FallbackTaken:
    """The engine departed from the plan for one image."""

    image_index: int
    kind: FallbackKind
    from_stage: Stage
    to_stage: Stage
    reason: FallbackReason
    message: str
