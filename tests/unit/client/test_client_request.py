"""Options on their way to the wire."""

from __future__ import annotations

import dataclasses
import math
import re
import uuid
from typing import Any, get_type_hints

import pytest

from imagegen import types
from imagegen._request import build_request, require_single
from imagegen.errors import InvalidRequestError
from imagegen.v1 import imagegen_pb2 as pb

FLATTENED = {"progress": {"min_progress_interval", "preview_count"}}
"""Proto fields that several options fill."""

ABSENT = {"prompt", "validate_only", "use_generation"}
"""Proto fields without an option: an argument of its own, `plan`, and one whose only other value is refused."""


def test_the_options_cover_the_contract() -> None:
    """Every field of the request is an option of the same name, but for those declared here."""
    options = {field.name for field in dataclasses.fields(types.GenerationOptions)}
    expected = set(pb.GenerateImageRequest.DESCRIPTOR.fields_by_name) - ABSENT - set(FLATTENED)
    assert options == expected.union(*FLATTENED.values())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (types.RefinerOptions, pb.RefinerOptions),
        (types.OutputOptions, pb.OutputOptions),
        (types.MicroConditioning, pb.MicroConditioning),
        (types.Size, pb.Size),
        (types.Point, pb.Point),
    ],
)
def test_the_parts_cover_the_contract(value: Any, message: Any) -> None:
    """The nested options have the fields of their messages."""
    assert {field.name for field in dataclasses.fields(value)} == set(message.DESCRIPTOR.fields_by_name)


def test_the_keywords_are_the_options() -> None:
    """What type checkers see is what the dataclass takes."""
    assert get_type_hints(types.GenerationKeywords) == get_type_hints(types.GenerationOptions)


def test_nothing_is_sent_that_was_not_asked_for() -> None:
    """A bare prompt leaves every other field unset but the request id, which is a UUID."""
    request = build_request("a circle", {})
    assert {field.name for field, _ in request.ListFields()} == {"prompt", "request_id"}
    assert uuid.UUID(request.request_id).version == 4


SCALARS: dict[str, Any] = {
    "request_id": "r-1",
    "model": "m",
    "prompt_2": "b",
    "negative_prompt": "",
    "negative_prompt_2": "d",
    "num_inference_steps": 20,
    "guidance_scale": 1.0,
    "width": 64,
    "height": 72,
    "num_images": 3,
    "seed": 0,
    "scheduler": "S",
    "use_refinement": False,
    "high_quality": False,
    "isolate_batch": True,
}
REFINER: dict[str, Any] = {
    "num_inference_steps": 3,
    "strength": 0.5,
    "switch_at": 0.25,
    "guidance_scale": 2.0,
    "aesthetic_score": 0.0,
    "negative_aesthetic_score": 1.0,
    "prompt": "r",
}
OUTPUT: dict[str, Any] = {"mime_type": "image/webp", "quality": 1, "embed_parameters": False}
SIZES = ("original_size", "target_size", "negative_original_size", "negative_target_size")
POINTS = ("crops_coords_top_left", "negative_crops_coords_top_left")


def conditioning(size: Any, point: Any) -> dict[str, Any]:
    """Returns every size and every point of a conditioning."""
    return {**dict.fromkeys(SIZES, size), **dict.fromkeys(POINTS, point)}


def test_every_option_arrives() -> None:
    """A request with all options set is the same message as one written by hand, whose plain values are the same."""
    size, point = {"width": 8, "height": 16}, {"x": 1, "y": 0}
    request = build_request(
        "a",
        {
            **SCALARS,  # type: ignore[typeddict-item] # a table for both
            "refiner": types.RefinerOptions(mode=types.RefinerMode.ENSEMBLE, **REFINER),
            "output": types.OutputOptions(**OUTPUT),
            "min_progress_interval": 0.25,
            "preview_count": 2,
            "priority": types.Priority.BATCH,
            "allowed_fallbacks": [types.FallbackKind.REFINER_TO_BASE],
            "micro_conditioning": types.MicroConditioning(**conditioning(types.Size(**size), types.Point(**point))),
            "on_disconnect": types.OnDisconnect.CONTINUE,
        },
        validate_only=True,
    )
    expected = pb.GenerateImageRequest(
        prompt="a",
        validate_only=True,
        refiner=pb.RefinerOptions(mode=pb.REFINER_MODE_ENSEMBLE, **REFINER),
        output=pb.OutputOptions(**OUTPUT),
        progress=pb.ProgressOptions(preview_count=2),
        priority=pb.PRIORITY_BATCH,
        allowed_fallbacks=pb.FallbackPolicy(kinds=[pb.FALLBACK_KIND_REFINER_TO_BASE]),
        micro_conditioning=pb.MicroConditioning(**conditioning(pb.Size(**size), pb.Point(**point))),
        on_disconnect=pb.ON_DISCONNECT_CONTINUE,
        **SCALARS,
    )
    expected.progress.min_interval.FromMilliseconds(250)
    assert request == expected
    set_fields = {field.name for field, _ in expected.ListFields()}
    assert set_fields == set(pb.GenerateImageRequest.DESCRIPTOR.fields_by_name) - {"use_generation"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"allowed_fallbacks": ()}, "allowed_fallbacks"),
        ({"refiner": types.RefinerOptions()}, "refiner"),
        ({"output": types.OutputOptions()}, "output"),
        ({"micro_conditioning": types.MicroConditioning()}, "micro_conditioning"),
        ({"negative_prompt": ""}, "negative_prompt"),
        ({"min_progress_interval": 0.0}, "progress"),
    ],
)
def test_an_empty_option_is_sent(options: types.GenerationKeywords, field: str) -> None:
    """Empty and unset are different requests wherever the contract tells them apart."""
    assert build_request("a", options).HasField(field)
    assert not build_request("a", {}).HasField(field)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"width": 2**31}, "width"),
        ({"seed": 2**63}, "seed"),
        ({"scheduler": "\ud800"}, "scheduler"),
        ({"request_id": "\ud800"}, "request_id"),
        ({"min_progress_interval": math.nan}, "progress.min_interval"),
        ({"min_progress_interval": math.inf}, "progress.min_interval"),
        ({"priority": "urgent"}, "priority"),
        ({"allowed_fallbacks": ["unknown"]}, "allowed_fallbacks.kinds"),
        ({"refiner": types.RefinerOptions(mode=types.RefinerMode.UNKNOWN)}, "refiner.mode"),
        ({"refiner": types.RefinerOptions(num_inference_steps=-(2**31) - 1)}, "refiner.num_inference_steps"),
        (
            {"micro_conditioning": types.MicroConditioning(target_size=types.Size(width=2**40, height=1))},
            "micro_conditioning.target_size.width",
        ),
    ],
)
def test_what_the_wire_cannot_carry_is_an_invalid_request(options: types.GenerationKeywords, field: str) -> None:
    """Values outside their field's type are refused before anything is sent, with the path of the field."""
    with pytest.raises(InvalidRequestError) as caught:
        build_request("a", options)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_all_violations_are_reported_at_once() -> None:
    """A request that is wrong in several places names them all, and its id."""
    with pytest.raises(InvalidRequestError) as caught:
        build_request("\udfff", {"request_id": "r", "width": 2**31, "height": -(2**31) - 1})
    assert [violation.field for violation in caught.value.violations] == ["prompt", "width", "height"]
    assert caught.value.request_id == "r"


@pytest.mark.parametrize("options", [{"steps": 3}, {"width": "wide"}, {"seed": 1.5}, {"validate_only": True}])
def test_misuse_is_a_type_error(options: Any) -> None:
    """Unknown names and wrong types are the caller's bugs."""
    with pytest.raises(TypeError):
        build_request("a", options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"request_id": uuid.UUID(int=7)}, "request_id cannot be of type UUID"),
        ({"num_inference_steps": 50.0}, "num_inference_steps cannot be of type float"),
        ({"use_refinement": "no"}, "use_refinement cannot be of type str"),
        ({"prompt_2": 5}, "prompt_2 cannot be of type int"),
        ({"priority": []}, "priority cannot be of type list"),
        ({"min_progress_interval": "1"}, "min_progress_interval cannot be of type str"),
        ({"refiner": {"strength": 0.3}}, "refiner must be RefinerOptions, not dict"),
        ({"refiner": types.RefinerOptions(strength="x")}, "refiner.strength cannot be of type str"),  # type: ignore[arg-type]
        ({"output": "image/png"}, "output must be OutputOptions, not str"),
        ({"micro_conditioning": {}}, "micro_conditioning must be MicroConditioning, not dict"),
        (
            {"micro_conditioning": types.MicroConditioning(original_size=(8, 8))},  # type: ignore[arg-type]
            "micro_conditioning.original_size must be Size, not tuple",
        ),
        ({"allowed_fallbacks": "refiner_to_base"}, "allowed_fallbacks must be a collection of FallbackKind, not str"),
        ({"allowed_fallbacks": 5}, "allowed_fallbacks must be a collection of FallbackKind, not int"),
    ],
)
def test_a_wrong_type_is_told_by_the_name_of_its_option(options: Any, said: str) -> None:
    """Protobuf's own message names none."""
    with pytest.raises(TypeError, match=f"^{re.escape(said)}$"):
        build_request("a", options)


@pytest.mark.parametrize("prompt", [None, 5])
def test_a_prompt_is_a_text(prompt: Any) -> None:
    """And nothing else, which is told by its name."""
    with pytest.raises(TypeError, match=r"^prompt cannot be of type "):
        build_request(prompt, {})


def test_one_image_cannot_stand_for_several() -> None:
    """`generate_image` refuses to drop images."""
    require_single({})
    require_single({"num_images": 1})
    require_single({"num_images": None})
    with pytest.raises(ValueError, match="generate_images"):
        require_single({"num_images": 2})
