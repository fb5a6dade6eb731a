"""What a caller asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from imagegen_server.core.words import FallbackKind, Priority, RefinerMode

GenerationKey: TypeAlias = tuple[str, str]
"""A tenant and its id of a generation: what names it among those of all tenants."""


@dataclass(kw_only=True, frozen=True, slots=True)
class MicroConditioning:
    """SDXL's size and crop conditioning. Sizes and crops are (height, width) and (top, left) as in diffusers.

    None means diffusers' own default: the requested size, or no separate negative conditioning.
    """

    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    negative_original_size: tuple[int, int] | None = None
    negative_crops_coords_top_left: tuple[int, int] = (0, 0)
    negative_target_size: tuple[int, int] | None = None


@dataclass(kw_only=True, frozen=True, slots=True)
class RefinerSettings:
    """The refiner stage of one request. None in a field that the mode does not use."""

    mode: RefinerMode
    num_inference_steps: int | None
    """Executed steps; image-to-image only."""
    strength: float | None
    """0 < strength <= 1; image-to-image only."""
    switch_at: float | None
    """0 < switch_at < 1; ensemble only."""
    guidance_scale: float
    aesthetic_score: float
    negative_aesthetic_score: float
    prompt: str
    """Empty: the base's prompt."""


@dataclass(kw_only=True, frozen=True, slots=True)
class OutputSettings:
    """The file format of the result."""

    mime_type: str
    """image/png, image/jpeg or image/webp."""
    quality: int
    """1 to 100; unused for PNG."""
    embed_parameters: bool


@dataclass(kw_only=True, frozen=True, slots=True)
class GenerationRequest:
    """What one caller asked for, complete and valid."""

    request_id: str
    model: str
    prompt: str
    prompt_2: str
    """Empty: prompt."""
    negative_prompt: str | None
    negative_prompt_2: str
    """Empty: negative_prompt."""
    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    num_images: int
    seed: int
    """Seed of image 0; image i uses seed + i."""
    scheduler: str
    use_refinement: bool
    refiner: RefinerSettings | None
    """None exactly if use_refinement is false."""
    micro_conditioning: MicroConditioning
    output: OutputSettings
    min_progress_interval: float
    preview_count: int = 0
    """Previews of each image."""
    priority: Priority
    allowed_fallbacks: frozenset[FallbackKind]
    isolate_batch: bool
    outlives_call: bool = False
    """Whether it goes on to its end when the call that asked for it ends before."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What is embedded in the file: JSON-able, the request's own words."""
    tenant: str = ""
    """Whose it is: a name without a meaning here; empty where callers are not told apart. Ids are the tenant's own."""
    tenant_weight: float = 1.0
    """The tenant's share of a contended device against that of others."""
    key_id: str = ""
    """Which of the tenant's API keys its caller showed; empty for other credentials."""

    @property
    def key(self) -> GenerationKey:
        """What names the generation among those of all tenants."""
        return self.tenant, self.request_id
