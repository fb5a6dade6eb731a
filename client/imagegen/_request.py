"""Keyword options to a `GenerateImageRequest`. Pure but for the UUID of an unnamed request."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Collection, Mapping
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


def _wrong_type(name: str, value: object, wanted: str = "") -> TypeError:
    """Returns the error of an option with a value of a type that it cannot have; protobuf's own would not name it."""
    kind = type(value).__name__
    return TypeError(f"{name} must be {wanted}, not {kind}" if wanted else f"{name} cannot be of type {kind}")


def _require(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise _wrong_type(name, value, kind.__name__)


class _Writer:
    """Fills a message and collects what does not fit in it, so that all violations are reported at once."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def copy(self, names: tuple[str, ...], source: object, target: Message, path: str = "") -> None:
        """Copies the attributes that are set. TypeError for a value of the wrong type."""
        for name in names:
            value = getattr(source, name)
            if value is not None:
                self.set(name, target, value, path)

    def set(self, name: str, target: Message, value: object, path: str = "") -> None:
        """Sets a field. TypeError for a value of the wrong type."""
        try:
            setattr(target, name, value)
        except TypeError:
            raise _wrong_type(f"{path}{name}", value) from None
        except ValueError as error:  # outside the field's type: 2**31 in an int32, a lone surrogate in a string
            self.violations.append(Violation(field=f"{path}{name}", description=str(error)))

    def word(self, name: str, target: Message, value: str | None, numbers: Mapping[str, int], path: str = "") -> None:
        """Sets a field to the number of an enum value, if there is one."""
        if value is not None:
            setattr(target, name, self.number(f"{path}{name}", value, numbers))

    def number(self, name: str, value: str, numbers: Mapping[str, int]) -> Any:
        """Returns the number of an enum value: an int, which the stubs type as a class that run time lacks."""
        if not isinstance(value, str):
            raise _wrong_type(name, value)
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
        except TypeError:
            raise _wrong_type("min_progress_interval", options.min_progress_interval) from None
        except (ValueError, OverflowError) as error:
            self.violations.append(Violation(field="progress.min_interval", description=str(error)))


def _fill(writer: _Writer, options: types.GenerationOptions, request: pb.GenerateImageRequest) -> None:
    writer.copy(_SCALARS, options, request)
    writer.interval(options, request)
    if options.preview_count:
        writer.copy(("preview_count",), options, request.progress, "progress.")
    if options.refiner is not None:
        _require("refiner", options.refiner, types.RefinerOptions)
        request.refiner.SetInParent()
        writer.copy(_REFINER_SCALARS, options.refiner, request.refiner, "refiner.")
        writer.word("mode", request.refiner, options.refiner.mode, _REFINER_MODES, "refiner.")
    if options.output is not None:
        _require("output", options.output, types.OutputOptions)
        request.output.SetInParent()
        writer.copy(_OUTPUT_SCALARS, options.output, request.output, "output.")
    writer.word("priority", request, options.priority, _PRIORITIES)
    writer.word("on_disconnect", request, options.on_disconnect, _ON_DISCONNECT)
    if options.allowed_fallbacks is not None:
        kinds = options.allowed_fallbacks
        if isinstance(kinds, str) or not isinstance(kinds, Collection):  # a text is one, of its letters
            raise _wrong_type("allowed_fallbacks", kinds, "a collection of FallbackKind")
        request.allowed_fallbacks.SetInParent()
        request.allowed_fallbacks.kinds.extend(
            writer.number("allowed_fallbacks.kinds", kind, _FALLBACK_KINDS) for kind in kinds
        )
    if options.micro_conditioning is not None:
        _require("micro_conditioning", options.micro_conditioning, types.MicroConditioning)
        _fill_conditioning(writer, options.micro_conditioning, request.micro_conditioning)


def _fill_conditioning(writer: _Writer, source: types.MicroConditioning, target: pb.MicroConditioning) -> None:
    target.SetInParent()
    for names, kind, fields in ((_SIZES, types.Size, ("width", "height")), (_POINTS, types.Point, ("x", "y"))):
        for name in names:
            value = getattr(source, name)
            if value is not None:
                _require(f"micro_conditioning.{name}", value, kind)
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
    writer.set("request_id", request, chosen.request_id or str(uuid.uuid4()))
    writer.set("prompt", request, prompt)
    _fill(writer, chosen, request)
    if writer.violations:
        raise invalid_request(tuple(writer.violations), request.request_id)
    return request
