"""What a request may say. Finds every violation at once; changes nothing.

The ranges that depend on the model come from the profile's `Limits`; the others are the contract's.
"""

from __future__ import annotations

import re
from typing import Final

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api.checks import Checks
from imagegen_server.api.enums import FALLBACK_KIND_OF, REFINER_MODE_OF
from imagegen_server.core import Limits, ModelProfile, RefinerMode
from imagegen_server.errors import Violation

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z", re.ASCII)
REQUEST_ID_RULE: Final = "must be 1 to 128 of the characters A-Z a-z 0-9 . _ : -"
MAX_NAME: Final = 128
"""Characters of a model's or a scheduler's name."""
MAX_CONDITIONING: Final = 65_536
"""Pixels of a micro-conditioning size or point; beyond any photograph SDXL was trained on."""
MAX_PROGRESS_INTERVAL: Final = 60.0
MAX_PREVIEWS: Final = 16
MAX_AESTHETIC_SCORE: Final = 10.0
MAX_FALLBACK_KINDS: Final = 16
"""Entries of a fallback policy, repeated ones included."""
WEBP: Final = "image/webp"
MIME_TYPES: Final = ("image/png", "image/jpeg", WEBP)
MAX_WEBP_SIDE: Final = 16_383
"""Pixels of a side that the format can express."""

_PRIORITIES: Final = frozenset(pb.Priority.values())
_ON_DISCONNECT: Final = frozenset(pb.OnDisconnect.values())


def valid_request_id(request_id: str) -> bool:
    """Returns whether a request may be named so: 1 to 128 of `A-Z a-z 0-9 . _ : -`."""
    return REQUEST_ID.match(request_id) is not None


def violations_of(
    request: pb.GenerateImageRequest, profile: ModelProfile, *, allow_isolate_batch: bool = True
) -> tuple[Violation, ...]:
    """Returns everything that is wrong with a request, empty if nothing is."""
    checks = Checks()
    if request.request_id and not valid_request_id(request.request_id):
        checks.add("request_id", REQUEST_ID_RULE)
    checks.text("model", request.model, MAX_NAME)
    checks.text("scheduler", request.scheduler, MAX_NAME)
    _prompts(checks, request, profile.limits.max_prompt_characters)
    _sampling(checks, request, profile.limits)
    _size(checks, request, profile)
    _refiner(checks, request, profile)
    _output(checks, request.output)
    _progress(checks, request.progress)
    checks.enum("priority", request.priority, _PRIORITIES)
    checks.enum("on_disconnect", request.on_disconnect, _ON_DISCONNECT)
    _fallbacks(checks, request.allowed_fallbacks)
    _micro_conditioning(checks, request)
    if request.isolate_batch and not allow_isolate_batch:
        checks.add("isolate_batch", "is not allowed on this server")
    if request.HasField("use_generation") and not request.use_generation:
        checks.add("use_generation", "must be true or unset: no stock-photo source is configured")
    return checks.violations


def _prompts(checks: Checks, request: pb.GenerateImageRequest, longest: int) -> None:
    if not request.prompt.strip():
        checks.add("prompt", "is required and must not be blank")
    checks.text("prompt", request.prompt, longest)
    checks.text("prompt_2", request.prompt_2, longest)
    checks.text("negative_prompt", request.negative_prompt, longest)
    checks.text("negative_prompt_2", request.negative_prompt_2, longest)
    checks.text("refiner.prompt", request.refiner.prompt, longest)


def _sampling(checks: Checks, request: pb.GenerateImageRequest, limits: Limits) -> None:
    if request.HasField("num_inference_steps"):
        checks.integer("num_inference_steps", request.num_inference_steps, limits.min_steps, limits.max_steps)
    if request.HasField("guidance_scale"):
        checks.number("guidance_scale", request.guidance_scale, limits.min_guidance_scale, limits.max_guidance_scale)
    images = request.num_images if request.HasField("num_images") else 1
    checks.integer("num_images", images, 1, limits.max_images)
    if request.HasField("seed"):
        counted = min(max(images, 1), limits.max_images)
        checks.integer("seed", request.seed, 0, 2**63 - counted)


def _size(checks: Checks, request: pb.GenerateImageRequest, profile: ModelProfile) -> None:
    limits = profile.limits
    for field in ("width", "height"):
        if not request.HasField(field):
            continue
        side: int = getattr(request, field)
        if not limits.min_side <= side <= limits.max_side or side % limits.side_multiple:
            allowed = f"a multiple of {limits.side_multiple}, {limits.min_side} to {limits.max_side}"
            checks.add(field, f"must be {allowed}, got {side}")
    width = request.width if request.HasField("width") else profile.defaults.width
    height = request.height if request.HasField("height") else profile.defaults.height
    sides_fit = 0 < width <= limits.max_side and 0 < height <= limits.max_side
    if sides_fit and width * height > limits.max_pixels:
        checks.add("width", f"width x height must be at most {limits.max_pixels} pixels, got {width * height}")
    for field, side in (("width", width), ("height", height)):
        if request.output.mime_type == WEBP and MAX_WEBP_SIDE < side <= limits.max_side:
            checks.add(field, f"must be at most {MAX_WEBP_SIDE} for {WEBP}, got {side}")


def _refiner(checks: Checks, request: pb.GenerateImageRequest, profile: ModelProfile) -> None:
    options = request.refiner
    if request.HasField("use_refinement") and not request.use_refinement and options.ByteSize():
        checks.add("refiner", "must be unset when use_refinement is false")
    checks.enum("refiner.mode", options.mode, frozenset(pb.RefinerMode.values()))
    _refiner_mode(checks, options, profile)
    limits = profile.limits
    if options.HasField("guidance_scale"):
        low, high = limits.min_guidance_scale, limits.max_guidance_scale
        checks.number("refiner.guidance_scale", options.guidance_scale, low, high)
    if options.HasField("aesthetic_score"):
        checks.number("refiner.aesthetic_score", options.aesthetic_score, 0, MAX_AESTHETIC_SCORE)
    if options.HasField("negative_aesthetic_score"):
        checks.number("refiner.negative_aesthetic_score", options.negative_aesthetic_score, 0, MAX_AESTHETIC_SCORE)


def _refiner_mode(checks: Checks, options: pb.RefinerOptions, profile: ModelProfile) -> None:
    """Checks the options that belong to one mode: their ranges, and that the mode is the one in force."""
    mode = refiner_mode(options.mode, profile.defaults.refiner_mode)
    ensemble = mode is RefinerMode.ENSEMBLE
    if options.HasField("num_inference_steps"):
        if ensemble:
            checks.add("refiner.num_inference_steps", "must be unset in ensemble mode, which splits the base's steps")
        checks.integer("refiner.num_inference_steps", options.num_inference_steps, 1, profile.limits.max_refiner_steps)
    if options.HasField("strength"):
        if ensemble:
            checks.add("refiner.strength", "must be unset in ensemble mode, which adds no noise")
        checks.number("refiner.strength", options.strength, 0, 1, above=True)
    if options.HasField("switch_at"):
        if mode is RefinerMode.IMAGE_TO_IMAGE:
            checks.add("refiner.switch_at", "must be unset in image-to-image mode, which splits no schedule")
        checks.number("refiner.switch_at", options.switch_at, 0, 1, above=True, below=True)


def refiner_mode(value: pb.RefinerMode, default: RefinerMode) -> RefinerMode | None:
    """Returns the mode in force; None for an unknown value."""
    if value == pb.REFINER_MODE_UNSPECIFIED:
        return default
    return REFINER_MODE_OF.get(value)


def _output(checks: Checks, output: pb.OutputOptions) -> None:
    mime_type = output.mime_type or MIME_TYPES[0]
    if mime_type not in MIME_TYPES:
        checks.add("output.mime_type", f"must be one of {', '.join(MIME_TYPES)}, got {mime_type[:40]!a}")
    if output.HasField("quality"):
        if mime_type == MIME_TYPES[0]:
            checks.add("output.quality", "must be unset for PNG, which is lossless")
        checks.integer("output.quality", output.quality, 1, 100)


def _progress(checks: Checks, progress: pb.ProgressOptions) -> None:
    checks.duration("progress.min_interval", progress.min_interval, MAX_PROGRESS_INTERVAL)
    checks.integer("progress.preview_count", progress.preview_count, 0, MAX_PREVIEWS)


def _fallbacks(checks: Checks, policy: pb.FallbackPolicy) -> None:
    if len(policy.kinds) > MAX_FALLBACK_KINDS:
        checks.add("allowed_fallbacks.kinds", f"at most {MAX_FALLBACK_KINDS} values, got {len(policy.kinds)}")
        return
    unknown = sorted({kind for kind in policy.kinds if kind not in FALLBACK_KIND_OF})
    if unknown:
        checks.add("allowed_fallbacks.kinds", f"unknown or unspecified: {', '.join(str(kind) for kind in unknown)}")


def _micro_conditioning(checks: Checks, request: pb.GenerateImageRequest) -> None:
    given = request.micro_conditioning
    prefix = "micro_conditioning"
    for name, size in (
        ("original_size", given.original_size if given.HasField("original_size") else None),
        ("target_size", given.target_size if given.HasField("target_size") else None),
        ("negative_original_size", given.negative_original_size if given.HasField("negative_original_size") else None),
        ("negative_target_size", given.negative_target_size if given.HasField("negative_target_size") else None),
    ):
        if size is not None:
            checks.integer(f"{prefix}.{name}.width", size.width, 1, MAX_CONDITIONING)
            checks.integer(f"{prefix}.{name}.height", size.height, 1, MAX_CONDITIONING)
    for name, point in (
        ("crops_coords_top_left", given.crops_coords_top_left),
        ("negative_crops_coords_top_left", given.negative_crops_coords_top_left),
    ):
        checks.integer(f"{prefix}.{name}.x", point.x, 0, MAX_CONDITIONING)
        checks.integer(f"{prefix}.{name}.y", point.y, 0, MAX_CONDITIONING)
    _negative_pair(checks, request)


def _negative_pair(checks: Checks, request: pb.GenerateImageRequest) -> None:
    """Refuses what no stage would read: without the refiner, the base needs both negative sizes for any of it."""
    given = request.micro_conditioning
    refined = request.use_refinement or not request.HasField("use_refinement")
    original, target = given.HasField("negative_original_size"), given.HasField("negative_target_size")
    if refined or (original and target):
        return
    prefix = "micro_conditioning.negative"
    if original or target:
        alone, missing = ("original", "target") if original else ("target", "original")
        checks.add(f"{prefix}_{alone}_size", f"has no effect without {prefix}_{missing}_size")
    if given.HasField("negative_crops_coords_top_left"):
        text = f"has no effect without {prefix}_original_size and {prefix}_target_size"
        checks.add(f"{prefix}_crops_coords_top_left", text)
