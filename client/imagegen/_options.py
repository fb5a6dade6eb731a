"""What a caller may ask for. `None` leaves a field to the defaults of the server's model profile."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypedDict

from imagegen._enums import FallbackKind, OnDisconnect, Priority, RefinerMode


@dataclass(kw_only=True, frozen=True, slots=True)
class Size:
    """A width and a height."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Point:
    """A position in an image."""

    x: int
    """Pixels from the left edge."""
    y: int
    """Pixels from the top edge."""


@dataclass(kw_only=True, frozen=True, slots=True)
class MicroConditioning:
    """SDXL's size and crop conditioning. An unset size is the requested one; an unset point is (0, 0)."""

    original_size: Size | None = None
    """The size of the imagined original photograph."""
    crops_coords_top_left: Point | None = None
    """Where the imagined crop begins."""
    target_size: Size | None = None
    """The size the image should look as if made for."""
    negative_original_size: Size | None = None
    """The same for the negative prompt. The base uses it only together with `negative_target_size`."""
    negative_crops_coords_top_left: Point | None = None
    """The same for the negative prompt."""
    negative_target_size: Size | None = None
    """The same for the negative prompt. The base uses it only together with `negative_original_size`."""


@dataclass(kw_only=True, frozen=True, slots=True)
class RefinerOptions:
    """Options of the refiner stage."""

    mode: RefinerMode | None = None
    """How the base's latent is handed over."""
    num_inference_steps: int | None = None
    """Executed denoising steps, 1 to 100; image-to-image mode only."""
    strength: float | None = None
    """Part of the noise schedule that is repeated, above 0 and at most 1; image-to-image mode only."""
    switch_at: float | None = None
    """Part of the schedule that the base executes, between 0 and 1; ensemble mode only."""
    guidance_scale: float | None = None
    """Guidance of the refiner; the model's default if unset, or the base's where it has none. 1 means unguided."""
    aesthetic_score: float | None = None
    """0 to 10."""
    negative_aesthetic_score: float | None = None
    """0 to 10."""
    prompt: str = ""
    """Prompt for the refiner; empty: the base's prompt."""


@dataclass(kw_only=True, frozen=True, slots=True)
class OutputOptions:
    """The file format of the result."""

    mime_type: str = ""
    """image/png (the default), image/jpeg or image/webp."""
    quality: int | None = None
    """JPEG and WebP quality, 1 to 100; refused for PNG."""
    embed_parameters: bool | None = None
    """Whether the file carries the prompt and the parameters that made it."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GenerationOptions:
    """The keyword arguments of `generate` and its relatives, named as in the contract.

    Ranges are the server's (see `Client.models`), which reports every violation at once.
    """

    request_id: str | None = None
    """Names the generation: 1 to 128 of A-Z a-z 0-9 . _ : -. A UUID is made if unset."""
    model: str = ""
    """Name of a model profile; empty: the server's."""
    prompt_2: str = ""
    """Prompt for the second text encoder; empty: the prompt."""
    negative_prompt: str | None = None
    """What the image should not show. Unset and empty differ as in diffusers."""
    negative_prompt_2: str = ""
    """Negative prompt for the second text encoder; empty: `negative_prompt`."""
    num_inference_steps: int | None = None
    """Denoising steps of the base."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 means unguided."""
    width: int | None = None
    """Pixels, a multiple of 8."""
    height: int | None = None
    """Pixels, a multiple of 8."""
    num_images: int | None = None
    """Images of this prompt. Image i uses seed + i."""
    seed: int | None = None
    """Makes a result repeatable; 0 is a seed like any other. Drawn at random and reported if unset."""
    scheduler: str = ""
    """Name of a scheduler of the model profile; empty: the profile's."""
    use_refinement: bool | None = None
    """Whether the refiner stage runs."""
    high_quality: bool | None = None
    """False lowers what is left unset to fewer steps and less guidance."""
    refiner: RefinerOptions | None = None
    """Options of the refiner stage."""
    output: OutputOptions | None = None
    """The file format of the result."""
    min_progress_interval: float | None = None
    """Least seconds between two progress events of one image; 0 asks for every step."""
    preview_count: int = 0
    """Previews to send of each image, 0 to 16."""
    priority: Priority | None = None
    """Who waits."""
    allowed_fallbacks: Collection[FallbackKind] | None = None
    """Fallbacks that are accepted. Unset: all of them; an empty collection accepts none."""
    isolate_batch: bool = False
    """Runs every step alone in its batch, for results that repeat bit for bit on any device. Slower."""
    micro_conditioning: MicroConditioning | None = None
    """SDXL's size and crop conditioning."""
    on_disconnect: OnDisconnect | None = None
    """What becomes of the generation if its call ends before it does. Unset: it is stopped. With CONTINUE the clients
    re-attach by themselves when the connection breaks."""


class GenerationKeywords(TypedDict, total=False):
    """`GenerationOptions` for type checkers, which cannot read keyword arguments from a dataclass."""

    request_id: str | None
    model: str
    prompt_2: str
    negative_prompt: str | None
    negative_prompt_2: str
    num_inference_steps: int | None
    guidance_scale: float | None
    width: int | None
    height: int | None
    num_images: int | None
    seed: int | None
    scheduler: str
    use_refinement: bool | None
    high_quality: bool | None
    refiner: RefinerOptions | None
    output: OutputOptions | None
    min_progress_interval: float | None
    preview_count: int
    priority: Priority | None
    allowed_fallbacks: Collection[FallbackKind] | None
    isolate_batch: bool
    micro_conditioning: MicroConditioning | None
    on_disconnect: OnDisconnect | None
