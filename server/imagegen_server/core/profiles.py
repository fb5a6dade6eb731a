"""What a model can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from imagegen_server.core.words import RefinerMode


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
    refiner_mode: RefinerMode = RefinerMode.IMAGE_TO_IMAGE
    refiner_num_inference_steps: int = 30
    refiner_guidance_scale: float | None = None
    """None: the base's."""
    refiner_strength: float = 0.3
    refiner_switch_at: float = 0.8
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5


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
