"""How much the engine takes on at once."""

from __future__ import annotations

from dataclasses import dataclass


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
    row_budget: int = 16
    """UNet rows of one batch at the native latent area, at least 2; larger latents get fewer, smaller ones more."""
    native_area: int = 16 * 16
    """Latent height times width at which row_budget holds, at least 1."""
    patience: float = 5.0
    """Seconds of waiting that double a generation's claim on the device, above 0."""
    switch_seconds: float = 0.0
    """What it takes to change the resident UNet; 0 if both stay resident."""
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
            "queue_update_interval": 0,
        }
        wrong = [f"{name} must be at least {low}" for name, low in least.items() if getattr(self, name) < low]
        wrong += [f"{name} must be above 0" for name in ("patience", "recent_seconds") if getattr(self, name) <= 0]
        if wrong:
            raise ValueError("; ".join(wrong))

    def rows(self, shape: tuple[int, int]) -> int:
        """Returns the row budget at a latent shape, at least 2."""
        return max(2, self.row_budget * self.native_area // (shape[0] * shape[1]))
