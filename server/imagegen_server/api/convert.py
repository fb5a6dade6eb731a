"""A valid GenerateImageRequest becomes a complete `GenerationRequest`; every default is filled here."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Sequence
from typing import Any, Final, Literal

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api.enums import FALLBACK_KIND_OF
from imagegen_server.api.validation import MIME_TYPES, refiner_mode, valid_request_id, violations_of
from imagegen_server.core import (
    FallbackKind,
    GenerationRequest,
    MicroConditioning,
    ModelProfile,
    OutputSettings,
    Priority,
    RefinerMode,
    RefinerSettings,
)

DEFAULT_PROGRESS_INTERVAL: Final = 0.25
"""Seconds."""
DEFAULT_QUALITY: Final = 90
SEED_BITS: Final = 32
"""Of a drawn seed: short enough to type again, and exact in languages whose numbers are doubles."""


def request_id_of(request_id: str) -> str:
    """Returns the caller's request id if it may be used, otherwise a new UUID."""
    return request_id if request_id and valid_request_id(request_id) else str(uuid.uuid4())


def fingerprint(request: pb.GenerateImageRequest) -> bytes:
    """Returns a digest of everything the request says but its id: equal bodies have equal fingerprints."""
    body = pb.GenerateImageRequest()
    body.CopyFrom(request)
    body.ClearField("request_id")
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def to_generation(
    request: pb.GenerateImageRequest,
    *,
    request_id: str,
    loaded: ModelProfile,
    profiles: Sequence[ModelProfile],
    allow_isolate_batch: bool = True,
) -> GenerationRequest:
    """Returns the complete request that `request` stands for.

    Raises `errors.InvalidRequest` with every violation; only when there is none, `errors.NotFound` for a model
    that is unknown or not loaded, and for a scheduler that the model does not have.
    """
    profile = next((known for known in profiles if known.name == request.model), loaded)
    violations = violations_of(request, profile, allow_isolate_batch=allow_isolate_batch)
    if violations:
        raise errors.InvalidRequest(violations)
    _require_model(request.model, loaded, profiles)
    if request.scheduler and request.scheduler not in loaded.schedulers:
        message = f"model {loaded.name} has no scheduler {request.scheduler!a}; ListModels names those it has"
        raise errors.NotFound("scheduler", request.scheduler, message)
    return _complete(request, request_id, loaded)


def _require_model(name: str, loaded: ModelProfile, profiles: Sequence[ModelProfile]) -> None:
    if not name or name == loaded.name:
        return
    known = any(profile.name == name for profile in profiles)
    problem = "is not loaded on this server" if known else "is unknown"
    raise errors.NotFound("model", name, f"model {name!a} {problem}; loaded is {loaded.name}")


def _complete(request: pb.GenerateImageRequest, request_id: str, profile: ModelProfile) -> GenerationRequest:
    defaults = profile.defaults
    fast = request.HasField("high_quality") and not request.high_quality
    steps = defaults.fast_num_inference_steps if fast else defaults.num_inference_steps
    guidance = defaults.fast_guidance_scale if fast else defaults.guidance_scale
    if request.HasField("guidance_scale"):
        guidance = request.guidance_scale
    refine = request.use_refinement or not request.HasField("use_refinement")
    values: dict[str, Any] = {
        "model": profile.name,
        "prompt": request.prompt,
        "prompt_2": request.prompt_2,
        "negative_prompt": request.negative_prompt if request.HasField("negative_prompt") else None,
        "negative_prompt_2": request.negative_prompt_2,
        "num_inference_steps": request.num_inference_steps if request.HasField("num_inference_steps") else steps,
        "guidance_scale": guidance,
        "width": request.width if request.HasField("width") else defaults.width,
        "height": request.height if request.HasField("height") else defaults.height,
        "num_images": request.num_images if request.HasField("num_images") else 1,
        "seed": request.seed if request.HasField("seed") else secrets.randbits(SEED_BITS),
        "scheduler": request.scheduler or defaults.scheduler,
        "use_refinement": refine,
    }
    refiner = _refiner(request.refiner, profile, guidance) if refine else None
    conditioning = _micro_conditioning(request.micro_conditioning)
    return GenerationRequest(
        request_id=request_id,
        refiner=refiner,
        micro_conditioning=conditioning,
        output=_output(request.output),
        min_progress_interval=_progress_interval(request.progress),
        preview_count=request.progress.preview_count,
        priority=Priority.BATCH if request.priority == pb.PRIORITY_BATCH else Priority.INTERACTIVE,
        allowed_fallbacks=_fallbacks(request),
        isolate_batch=request.isolate_batch,
        outlives_call=request.on_disconnect == pb.ON_DISCONNECT_CONTINUE,
        parameters=_parameters(values, refiner, conditioning),
        **values,
    )


def _refiner(options: pb.RefinerOptions, profile: ModelProfile, base_guidance: float) -> RefinerSettings:
    defaults = profile.defaults
    mode = refiner_mode(options.mode, defaults.refiner_mode) or defaults.refiner_mode
    whole = mode is RefinerMode.IMAGE_TO_IMAGE
    steps = (
        options.num_inference_steps if options.HasField("num_inference_steps") else defaults.refiner_num_inference_steps
    )
    strength = options.strength if options.HasField("strength") else defaults.refiner_strength
    switch_at = options.switch_at if options.HasField("switch_at") else defaults.refiner_switch_at
    return RefinerSettings(
        mode=mode,
        num_inference_steps=steps if whole else None,
        strength=strength if whole else None,
        switch_at=None if whole else switch_at,
        guidance_scale=_refiner_guidance(options, profile, base_guidance),
        aesthetic_score=options.aesthetic_score if options.HasField("aesthetic_score") else defaults.aesthetic_score,
        negative_aesthetic_score=(
            options.negative_aesthetic_score
            if options.HasField("negative_aesthetic_score")
            else defaults.negative_aesthetic_score
        ),
        prompt=options.prompt,
    )


def _refiner_guidance(options: pb.RefinerOptions, profile: ModelProfile, base_guidance: float) -> float:
    """Returns the caller's guidance, else the profile's, else the base's."""
    if options.HasField("guidance_scale"):
        return options.guidance_scale
    default = profile.defaults.refiner_guidance_scale
    return base_guidance if default is None else default


def _output(output: pb.OutputOptions) -> OutputSettings:
    return OutputSettings(
        mime_type=output.mime_type or MIME_TYPES[0],
        quality=output.quality if output.HasField("quality") else DEFAULT_QUALITY,
        embed_parameters=output.embed_parameters or not output.HasField("embed_parameters"),
    )


def _progress_interval(progress: pb.ProgressOptions) -> float:
    if not progress.HasField("min_interval"):
        return DEFAULT_PROGRESS_INTERVAL
    return progress.min_interval.seconds + progress.min_interval.nanos / 1e9


def _fallbacks(request: pb.GenerateImageRequest) -> frozenset[FallbackKind]:
    if not request.HasField("allowed_fallbacks"):
        return frozenset(FallbackKind)
    return frozenset(FALLBACK_KIND_OF[kind] for kind in request.allowed_fallbacks.kinds)


_SizeField = Literal["original_size", "target_size", "negative_original_size", "negative_target_size"]


def _micro_conditioning(given: pb.MicroConditioning) -> MicroConditioning:
    def size(field: _SizeField) -> tuple[int, int] | None:
        value = getattr(given, field)
        return (value.height, value.width) if given.HasField(field) else None

    crop, negative_crop = given.crops_coords_top_left, given.negative_crops_coords_top_left
    return MicroConditioning(
        original_size=size("original_size"),
        crops_coords_top_left=(crop.y, crop.x),
        target_size=size("target_size"),
        negative_original_size=size("negative_original_size"),
        negative_crops_coords_top_left=(negative_crop.y, negative_crop.x),
        negative_target_size=size("negative_target_size"),
    )


def _parameters(
    values: dict[str, Any], refiner: RefinerSettings | None, conditioning: MicroConditioning
) -> dict[str, Any]:
    """Returns what is embedded in the file: what made the image, in the request's own words.

    An empty negative prompt is one of them: it is encoded, where one that is unset is zeroed.
    """
    parameters = {
        name: value
        for name, value in values.items()
        if value is not None and (value != "" or name == "negative_prompt")
    }
    if refiner is not None:
        given = {
            "mode": str(refiner.mode),
            "num_inference_steps": refiner.num_inference_steps,
            "strength": refiner.strength,
            "switch_at": refiner.switch_at,
            "guidance_scale": refiner.guidance_scale,
            "aesthetic_score": refiner.aesthetic_score,
            "negative_aesthetic_score": refiner.negative_aesthetic_score,
            "prompt": refiner.prompt or None,
        }
        parameters["refiner"] = {name: value for name, value in given.items() if value is not None}
    if conditioning != MicroConditioning():
        parameters["micro_conditioning"] = _conditioning_parameters(conditioning)
    return parameters


def _conditioning_parameters(given: MicroConditioning) -> dict[str, Any]:
    """Returns the conditioning with named sides, as the contract has it; unset sizes are left out."""
    sizes = {
        "original_size": given.original_size,
        "target_size": given.target_size,
        "negative_original_size": given.negative_original_size,
        "negative_target_size": given.negative_target_size,
    }
    result: dict[str, Any] = {
        name: {"width": size[1], "height": size[0]} for name, size in sizes.items() if size is not None
    }
    top, left = given.crops_coords_top_left
    result["crops_coords_top_left"] = {"x": left, "y": top}
    top, left = given.negative_crops_coords_top_left
    result["negative_crops_coords_top_left"] = {"x": left, "y": top}
    return result
