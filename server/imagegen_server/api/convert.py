"""A valid GenerateImageRequest becomes a complete `GenerationRequest`; every default is filled here."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, Literal, TypeVar

from google.protobuf.message import Message

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
from imagegen_server.errors import Violation

DEFAULT_PROGRESS_INTERVAL: Final = 0.25
"""Seconds."""
DEFAULT_QUALITY: Final = 90
SEED_BITS: Final = 32
"""Of a drawn seed: short enough to type again, and exact in languages whose numbers are doubles."""
_EMBEDDED: Final = (
    "model",
    "prompt",
    "prompt_2",
    "negative_prompt",
    "negative_prompt_2",
    "num_inference_steps",
    "guidance_scale",
    "width",
    "height",
    "num_images",
    "seed",
    "scheduler",
    "use_refinement",
)
"""What of a request is embedded in its files before the refiner's settings and the conditioning, in the order there."""

_DECIDE_STEPS: Final = frozenset({"high_quality", "num_inference_steps", "refiner", "scheduler", "use_refinement"})
"""Fields that decide what each stage executes."""

_T = TypeVar("_T")


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
    plan: Callable[[GenerationRequest], object],
    allow_isolate_batch: bool = True,
) -> GenerationRequest:
    """Returns the complete request that `request` stands for.

    `plan` raises `errors.InvalidRequest` for steps that cannot be run; it is asked only to name that beside other
    violations.

    Raises `errors.InvalidRequest` with every violation, names that are not found included. If there are only such
    names, raises `errors.NotFound` for a model that is unknown or not loaded, or a scheduler that the model lacks.
    """
    profile = next((known for known in profiles if known.name == request.model), loaded)
    violations = violations_of(request, profile, allow_isolate_batch=allow_isolate_batch)
    unknown = list(_unknown(request, loaded, profiles))
    if violations:
        wrong = {violation.field for violation in violations}
        names = [Violation(field=each.kind, description=str(each)) for each in unknown if each.kind not in wrong]
        raise errors.InvalidRequest((*violations, *names, *_unplannable(request, loaded, wrong, unknown, plan)))
    for error in unknown:
        raise error
    return _complete(request, request_id, loaded)


def _unknown(
    request: pb.GenerateImageRequest, loaded: ModelProfile, profiles: Sequence[ModelProfile]
) -> Iterator[errors.NotFound]:
    """Yields what the request names and is not here."""
    name = request.model
    if name and name != loaded.name:
        known = any(profile.name == name for profile in profiles)
        problem = "is not loaded on this server" if known else "is unknown"
        yield errors.NotFound("model", name, f"model {name!a} {problem}; loaded is {loaded.name}")
    if request.scheduler and request.scheduler not in loaded.schedulers:
        message = f"model {loaded.name} has no scheduler {request.scheduler!a}; ListModels names those it has"
        yield errors.NotFound("scheduler", request.scheduler, message)


def _unplannable(
    request: pb.GenerateImageRequest,
    loaded: ModelProfile,
    wrong: Collection[str],
    unknown: Collection[errors.NotFound],
    plan: Callable[[GenerationRequest], object],
) -> tuple[Violation, ...]:
    """Returns why the steps of an invalid request cannot be run, if what decides them is valid by itself."""
    if unknown or any(field.partition(".")[0] in _DECIDE_STEPS for field in wrong):
        return ()
    bare = pb.GenerateImageRequest(prompt="only the steps matter")
    for field, value in request.ListFields():
        if field.name in _DECIDE_STEPS:
            bare.MergeFrom(pb.GenerateImageRequest(**{field.name: value}))
    try:
        plan(_complete(bare, "", loaded))
    except errors.InvalidRequest as error:
        return error.violations
    except errors.RefinerUnavailable:
        pass  # no violation: what is asked for is right, and not here
    return ()


def _complete(request: pb.GenerateImageRequest, request_id: str, profile: ModelProfile) -> GenerationRequest:
    defaults = profile.defaults
    fast = not _given(request, "high_quality", True)
    steps = defaults.fast_num_inference_steps if fast else defaults.num_inference_steps
    guidance = _given(request, "guidance_scale", defaults.fast_guidance_scale if fast else defaults.guidance_scale)
    refine = _given(request, "use_refinement", True)
    complete = GenerationRequest(
        request_id=request_id,
        model=profile.name,
        prompt=request.prompt,
        prompt_2=request.prompt_2,
        negative_prompt=_given(request, "negative_prompt", None),
        negative_prompt_2=request.negative_prompt_2,
        num_inference_steps=_given(request, "num_inference_steps", steps),
        guidance_scale=guidance,
        width=_given(request, "width", defaults.width),
        height=_given(request, "height", defaults.height),
        num_images=_given(request, "num_images", 1),
        seed=request.seed if request.HasField("seed") else secrets.randbits(SEED_BITS),
        scheduler=request.scheduler or defaults.scheduler,
        use_refinement=refine,
        refiner=_refiner(request.refiner, profile, guidance) if refine else None,
        micro_conditioning=_micro_conditioning(request.micro_conditioning),
        output=_output(request.output),
        min_progress_interval=_progress_interval(request.progress),
        preview_count=request.progress.preview_count,
        priority=Priority.BATCH if request.priority == pb.PRIORITY_BATCH else Priority.INTERACTIVE,
        allowed_fallbacks=_fallbacks(request),
        isolate_batch=request.isolate_batch,
        outlives_call=request.on_disconnect == pb.ON_DISCONNECT_CONTINUE,
    )
    return dataclasses.replace(complete, parameters=_parameters(complete))


def _given(message: Message, field: str, default: _T) -> _T:
    """Returns an optional field of a message; the default if it is unset."""
    value: _T = getattr(message, field) if message.HasField(field) else default
    return value


def _refiner(options: pb.RefinerOptions, profile: ModelProfile, base_guidance: float) -> RefinerSettings:
    defaults = profile.defaults
    mode = refiner_mode(options.mode, defaults.refiner_mode) or defaults.refiner_mode
    whole = mode is RefinerMode.IMAGE_TO_IMAGE
    steps = _given(options, "num_inference_steps", defaults.refiner_num_inference_steps)
    guidance = base_guidance if defaults.refiner_guidance_scale is None else defaults.refiner_guidance_scale
    return RefinerSettings(
        mode=mode,
        num_inference_steps=steps if whole else None,
        strength=_given(options, "strength", defaults.refiner_strength) if whole else None,
        switch_at=None if whole else _given(options, "switch_at", defaults.refiner_switch_at),
        guidance_scale=_given(options, "guidance_scale", guidance),
        aesthetic_score=_given(options, "aesthetic_score", defaults.aesthetic_score),
        negative_aesthetic_score=_given(options, "negative_aesthetic_score", defaults.negative_aesthetic_score),
        prompt=options.prompt,
    )


def _output(output: pb.OutputOptions) -> OutputSettings:
    return OutputSettings(
        mime_type=output.mime_type or MIME_TYPES[0],
        quality=_given(output, "quality", DEFAULT_QUALITY),
        embed_parameters=_given(output, "embed_parameters", True),
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


def _parameters(request: GenerationRequest) -> dict[str, Any]:
    """Returns what is embedded in the file: what made the image, in the request's own words.

    An empty negative prompt is one of them: it is encoded, where one that is unset is zeroed.
    """
    named = {name: getattr(request, name) for name in _EMBEDDED}
    parameters = {
        name: value for name, value in named.items() if value is not None and (value != "" or name == "negative_prompt")
    }
    refiner = request.refiner
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
    if request.micro_conditioning != MicroConditioning():
        parameters["micro_conditioning"] = _conditioning_parameters(request.micro_conditioning)
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
