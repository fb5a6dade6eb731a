"""What a model can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt
from typing import Final

from imagegen_server.core.words import RefinerMode

LATENT_FACTOR: Final = 8
"""Pixels of a side for each of the latent's: what Stable Diffusion XL's VAE reduces an image by."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Limits:
    """Ranges that a request must keep to, bounds included. Sides in pixels."""

    min_steps: int = 20
    max_steps: int = 100
    max_refiner_steps: int = 100
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 20.0
    min_side: int = 64
    max_side: int = 2048
    max_pixels: int = 2048 * 2048
    side_multiple: int = 8
    max_images: int = 8
    max_prompt_characters: int = 2000


@dataclass(kw_only=True, frozen=True, slots=True)
class Defaults:
    """What an unset field means."""

    num_inference_steps: int = 50
    guidance_scale: float = 8.0
    fast_num_inference_steps: int = 30
    fast_guidance_scale: float = 7.5
    width: int = 1024
    height: int = 1024
    scheduler: str = "EulerDiscreteScheduler"
    """Of a loaded model one that runs: its own where this one does not."""
    refiner_mode: RefinerMode = RefinerMode.IMAGE_TO_IMAGE
    refiner_num_inference_steps: int = 30
    refiner_guidance_scale: float | None = None
    """None: the base's."""
    refiner_strength: float = 0.3
    refiner_switch_at: float = 0.8
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5

    def within(self, limits: Limits) -> Defaults:
        """Returns the defaults with what lies outside the limits brought to the nearest bound.

        Sides are scaled down together, and then are multiples of `side_multiple`. The limits must admit something.
        """

        def steps(count: int) -> int:
            return min(max(count, limits.min_steps), limits.max_steps)

        def guidance(scale: float) -> float:
            return min(max(scale, limits.min_guidance_scale), limits.max_guidance_scale)

        width, height = _fitted(self.width, self.height, limits)
        return replace(
            self,
            num_inference_steps=steps(self.num_inference_steps),
            guidance_scale=guidance(self.guidance_scale),
            fast_num_inference_steps=steps(self.fast_num_inference_steps),
            fast_guidance_scale=guidance(self.fast_guidance_scale),
            width=width,
            height=height,
            refiner_num_inference_steps=min(self.refiner_num_inference_steps, limits.max_refiner_steps),
            refiner_guidance_scale=(
                None if self.refiner_guidance_scale is None else guidance(self.refiner_guidance_scale)
            ),
        )


def _fitted(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """Returns a size scaled down into the limits; a side that would fall below the least one stays there."""

    def rounded(side: int) -> int:
        return max(side - side % limits.side_multiple, limits.min_side)

    longest = max(width, height)
    fitted = [
        rounded(min(side, side * limits.max_side // longest, isqrt(side * limits.max_pixels // other)))
        for side, other in ((width, height), (height, width))
    ]
    room = rounded(limits.max_pixels // min(fitted))  # less than the longer side only where the other is the least
    return min(fitted[0], room), min(fitted[1], room)


@dataclass(kw_only=True, frozen=True, slots=True)
class ModelProfile:
    """Where weights come from, with their native size, limits and defaults."""

    name: str
    description: str
    base_source: str
    refiner_source: str
    """Empty if the profile has no refiner."""
    limits: Limits
    defaults: Defaults
    schedulers: tuple[str, ...]
    """Sorted class names that load with what is installed."""
    row_budget: int = 16
    """UNet rows of one batch at the native size beyond which batching is not known to pay."""

    @property
    def native_area(self) -> int:
        """Height times width of the latent at the native size."""
        return (self.defaults.width // LATENT_FACTOR) * (self.defaults.height // LATENT_FACTOR)
