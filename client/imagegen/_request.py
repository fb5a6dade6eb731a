"""Keyword options to a `GenerateImageRequest`. Pure but for the UUID of an unnamed request."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from imagegen import _convert, types
from imagegen._details import Violation
from imagegen._status import invalid_request
from imagegen.v1 import imagegen_pb2 as pb

_E = TypeVar("_E", bound=enum.StrEnum)


def _by_value(numbers: Mapping[int, _E]) -> dict[str, int]:
    return {value: number for number, value in numbers.items()}


_PRIORITIES: Final = _by_value(_convert.PRIORITIES)
_ON_DISCONNECT: Final = _by_value(_convert.ON_DISCONNECT)
_REFINER_MODES: Final = _by_value(_convert.REFINER_MODES)
_FALLBACK_KINDS: Final = _by_value(_convert.FALLBACK_KINDS)

_SCALARS: Final = (
    "model",
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
    "high_quality",
    "isolate_batch",
)
_REFINER_SCALARS: Final = (
    "num_inference_steps",
    "strength",
    "switch_at",
    "guidance_scale",
    "aesthetic_score",
    "negative_aesthetic_score",
    "prompt",
)
_OUTPUT_SCALARS: Final = ("mime_type", "quality", "embed_parameters")
_SIZES: Final = ("original_size", "target_size", "negative_original_size", "negative_target_size")
_POINTS: Final = ("crops_coords_top_left", "negative_crops_coords_top_left")


class _Writer:
    """Fills a message and collects what does not fit in it, so that all violations are reported at once."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def copy(self, names: tuple[str, ...], source: object, target: Message, path: str = "") -> None:
        """Copies the attributes that are set. TypeError for a value of the wrong type."""
        for name in names:
            value = getattr(source, name)
            if value is None:
                continue
            try:
                setattr(target, name, value)
            except ValueError as error:  # outside the field's type: 2**31 in an int32, a lone surrogate in a string
                self.violations.append(Violation(field=f"{path}{name}", description=str(error)))

    def number(self, name: str, value: str, numbers: Mapping[str, int]) -> Any:
        """Returns the number of an enum value: an int, which the stubs type as a class that run time lacks."""
        if value not in numbers:
            allowed = ", ".join(sorted(numbers))
            self.violations.append(Violation(field=name, description=f"must be one of {allowed}, not {value!r}"))
        return numbers.get(value, 0)

    def interval(self, options: types.GenerationOptions, request: pb.GenerateImageRequest) -> None:
        """Writes the least time between two progress events."""
        if options.min_progress_interval is None:
            return
        try:
            request.progress.min_interval.FromNanoseconds(round(options.min_progress_interval * 1e9))
        except (ValueError, OverflowError) as error:
            self.violations.append(Violation(field="progress.min_interval", description=str(error)))


def _fill(writer: _Writer, options: types.GenerationOptions, request: pb.GenerateImageRequest) -> None:
    writer.copy(_SCALARS, options, request)
    writer.interval(options, request)
    if options.preview_count:
        writer.copy(("preview_count",), options, request.progress, "progress.")
    if options.refiner is not None:
        request.refiner.SetInParent()
        writer.copy(_REFINER_SCALARS, options.refiner, request.refiner, "refiner.")
        if options.refiner.mode is not None:
            request.refiner.mode = writer.number("refiner.mode", options.refiner.mode, _REFINER_MODES)
    if options.output is not None:
        request.output.SetInParent()
        writer.copy(_OUTPUT_SCALARS, options.output, request.output, "output.")
    if options.priority is not None:
        request.priority = writer.number("priority", options.priority, _PRIORITIES)
    if options.on_disconnect is not None:
        request.on_disconnect = writer.number("on_disconnect", options.on_disconnect, _ON_DISCONNECT)
    if options.allowed_fallbacks is not None:
        request.allowed_fallbacks.SetInParent()
        request.allowed_fallbacks.kinds.extend(
            writer.number("allowed_fallbacks.kinds", kind, _FALLBACK_KINDS) for kind in options.allowed_fallbacks
        )
    if options.micro_conditioning is not None:
        _fill_conditioning(writer, options.micro_conditioning, request.micro_conditioning)


def _fill_conditioning(writer: _Writer, source: types.MicroConditioning, target: pb.MicroConditioning) -> None:
    target.SetInParent()
    for names, fields in ((_SIZES, ("width", "height")), (_POINTS, ("x", "y"))):
        for name in names:
            value = getattr(source, name)
            if value is not None:
                part = getattr(target, name)
                part.SetInParent()
                writer.copy(fields, value, part, f"micro_conditioning.{name}.")


def require_single(options: types.GenerationKeywords) -> None:
    """Raises ValueError if more than one image is asked for where one is returned."""
    if options.get("num_images") not in {None, 1}:
        raise ValueError("generate_image returns one image; use generate_images for more")


def build_request(
    prompt: str, options: types.GenerationKeywords, *, validate_only: bool = False
) -> pb.GenerateImageRequest:
    """Returns the request for a prompt and its options.

    An unnamed request gets a UUID, which all attempts share. Raises TypeError for an unknown keyword or a value of
    the wrong type, and `errors.InvalidRequestError` for values that the wire format cannot carry; ranges are the
    server's to check.
    """
    chosen = types.GenerationOptions(**options)
    request = pb.GenerateImageRequest(validate_only=validate_only)
    writer = _Writer()
    try:
        request.request_id = chosen.request_id or str(uuid.uuid4())
    except ValueError as error:
        writer.violations.append(Violation(field="request_id", description=str(error)))
    try:
        request.prompt = prompt
    except ValueError as error:
        writer.violations.append(Violation(field="prompt", description=str(error)))
    _fill(writer, chosen, request)
    if writer.violations:
        raise invalid_request(tuple(writer.violations), request.request_id)
    return request
