"""How much the engine takes on at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from imagegen_server.core import LatentShape

SWAP_SECONDS: Final = 1.0
"""What swapping UNets is taken to cost: 5 GB each way over PCIe 4.0 at about 10 GB/s."""


@dataclass(kw_only=True, frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine. Raises ValueError, naming every bound that makes no sense."""

    queue_capacity: int = 64
    """Generations that may wait for the device, at least 1."""
    max_running: int = 8
    """Generations on the device at once, at least 1; bounds the latents and embeddings it holds."""
    max_delivering: int = 32
    """Generations whose images are encoded or sent at once, at least 1; no new one starts above it. Bounds the
    memory that slow readers can hold."""
    callers_told_apart: bool = False
    """Whether callers show whose they are. Those who do not are then a tenant like any other, and leave a place to the
    others; else nobody has a tenant, and all may fill the device."""
    row_budget: int = 16
    """UNet rows of one batch at the native latent area, at least 2; larger latents get fewer, smaller ones more."""
    native_area: int = 16 * 16
    """Latent height times width at which row_budget holds, at least 1."""
    row_knees: Mapping[LatentShape, int] = field(default_factory=dict)
    """Measured row budgets by latent shape, each at least 2. Where there are some they stand in for
    `row_budget`: sizes between them get the rows of the nearest one, scaled by area."""
    switch_seconds: float = 0.0
    """What it takes to change the resident UNet; 0 if both stay resident."""
    swap_seconds: float = SWAP_SECONDS
    """What it is taken to cost once the runner has to swap for lack of memory."""
    siblings_apart: bool = False
    """Whether images of one generation run one by one while no other generation shares their batch. Slower, but a
    generation that is alone then gives the very pixels that diffusers gives at batch size 1, whatever its number of
    images; for devices on which that is promised."""
    encode_threads: int = 2
    """Threads that encode image files, at least 1."""
    recent: int = 10_000
    """Most ended generations that are remembered, at least 1."""
    recent_seconds: float = 3600.0
    """How long an ended generation is remembered, above 0."""
    queue_update_interval: float = 0.25
    """Least seconds between two queue updates."""

    def __post_init__(self) -> None:
        least = {
            "queue_capacity": 1,
            "max_running": 1,
            "max_delivering": 1,
            "row_budget": 2,
            "native_area": 1,
            "encode_threads": 1,
            "recent": 1,
            "switch_seconds": 0,
            "swap_seconds": 0,
            "queue_update_interval": 0,
        }
        wrong = [f"{name} must be at least {low}" for name, low in least.items() if getattr(self, name) < low]
        wrong += ["recent_seconds must be above 0"] if self.recent_seconds <= 0 else []
        wrong += [f"row_knees[{shape}] must be at least 2" for shape, rows in self.row_knees.items() if rows < 2]
        if wrong:
            raise ValueError("; ".join(wrong))

    def rows(self, shape: LatentShape) -> int:
        """Returns the row budget at a latent shape, at least 2."""
        if shape in self.row_knees:
            return self.row_knees[shape]
        area, rows, known = shape[0] * shape[1], self.row_budget, self.native_area
        if self.row_knees:
            nearest = min(self.row_knees, key=lambda measured: abs(measured[0] * measured[1] - area))
            rows, known = self.row_knees[nearest], nearest[0] * nearest[1]
        return max(2, rows * known // area)
