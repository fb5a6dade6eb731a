"""What a request may say, and that everything wrong with it is said at once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api import validation
from imagegen_server.core import Limits
from support.scripted_engine import PROFILE


def request(**fields: object) -> pb.GenerateImageRequest:
    """Returns a valid request with some fields set."""
    return pb.GenerateImageRequest(**{"prompt": "a red circle", **fields})  # type: ignore[arg-type] # any field


def fields_of(message: pb.GenerateImageRequest) -> list[str]:
    """Returns the paths of what is wrong."""
    return [violation.field for violation in validation.violations_of(message, PROFILE)]


NAN, INF = math.nan, math.inf
HUGE = 2**31 - 1

BAD = [
    ("request_id", {"request_id": "a b"}),
    ("request_id", {"request_id": "x" * 129}),
    ("request_id", {"request_id": "line\n"}),
    ("request_id", {"request_id": "\u00e9"}),
    ("model", {"model": "m" * 129}),
    ("scheduler", {"scheduler": "s" * 129}),
    ("prompt", {"prompt": ""}),
    ("prompt", {"prompt": " \n\t"}),
    ("prompt", {"prompt": "x" * 2001}),
    ("prompt_2", {"prompt_2": "x" * 2001}),
    ("negative_prompt", {"negative_prompt": "x" * 2001}),
    ("negative_prompt_2", {"negative_prompt_2": "x" * 2001}),
    ("num_inference_steps", {"num_inference_steps": 19}),
    ("num_inference_steps", {"num_inference_steps": 101}),
    ("num_inference_steps", {"num_inference_steps": -1}),
    ("num_inference_steps", {"num_inference_steps": 0}),
    ("guidance_scale", {"guidance_scale": 0.99}),
    ("guidance_scale", {"guidance_scale": 20.01}),
    ("guidance_scale", {"guidance_scale": NAN}),
    ("guidance_scale", {"guidance_scale": INF}),
    ("guidance_scale", {"guidance_scale": -INF}),
    ("width", {"width": 100}),
    ("width", {"width": 0}),
    ("width", {"width": 2056}),
    ("height", {"height": 56}),
    ("height", {"height": -8}),
    ("height", {"height": HUGE}),
    ("num_images", {"num_images": 0}),
    ("num_images", {"num_images": 9}),
    ("num_images", {"num_images": -HUGE}),
    ("seed", {"seed": -1}),
    ("seed", {"seed": 2**63 - 1, "num_images": 2}),
    ("priority", {"priority": 3}),
    ("priority", {"priority": -1}),
    ("refiner.mode", {"refiner": {"mode": 3}}),
    ("refiner.num_inference_steps", {"refiner": {"num_inference_steps": 0}}),
    ("refiner.num_inference_steps", {"refiner": {"num_inference_steps": 101}}),
    ("refiner.num_inference_steps", {"refiner": {"mode": "REFINER_MODE_ENSEMBLE", "num_inference_steps": 5}}),
    ("refiner.strength", {"refiner": {"strength": 0.0}}),
    ("refiner.strength", {"refiner": {"strength": 1.01}}),
    ("refiner.strength", {"refiner": {"strength": NAN}}),
    ("refiner.strength", {"refiner": {"mode": "REFINER_MODE_ENSEMBLE", "strength": 0.3}}),
    ("refiner.switch_at", {"refiner": {"mode": "REFINER_MODE_ENSEMBLE", "switch_at": 1.0}}),
    ("refiner.switch_at", {"refiner": {"mode": "REFINER_MODE_ENSEMBLE", "switch_at": 0.0}}),
    ("refiner.switch_at", {"refiner": {"switch_at": 0.8}}),
    ("refiner.guidance_scale", {"refiner": {"guidance_scale": 0.5}}),
    ("refiner.guidance_scale", {"refiner": {"guidance_scale": NAN}}),
    ("refiner.aesthetic_score", {"refiner": {"aesthetic_score": 10.1}}),
    ("refiner.aesthetic_score", {"refiner": {"aesthetic_score": INF}}),
    ("refiner.negative_aesthetic_score", {"refiner": {"negative_aesthetic_score": -0.1}}),
    ("refiner.prompt", {"refiner": {"prompt": "x" * 2001}}),
    ("refiner", {"use_refinement": False, "refiner": {"strength": 0.5}}),
    ("output.mime_type", {"output": {"mime_type": "image/gif"}}),
    ("output.mime_type", {"output": {"mime_type": "x" * 5000}}),
    ("output.quality", {"output": {"quality": 90}}),
    ("output.quality", {"output": {"mime_type": "image/jpeg", "quality": 0}}),
    ("output.quality", {"output": {"mime_type": "image/webp", "quality": 101}}),
    ("progress.min_interval", {"progress": {"min_interval": {"seconds": -1}}}),
    ("progress.min_interval", {"progress": {"min_interval": {"seconds": 60, "nanos": 1}}}),
    ("progress.min_interval", {"progress": {"min_interval": {"seconds": 1, "nanos": -1}}}),
    ("progress.min_interval", {"progress": {"min_interval": {"nanos": 1_000_000_000}}}),
    ("progress.min_interval", {"progress": {"min_interval": {"seconds": 2**62}}}),
    ("progress.preview_count", {"progress": {"preview_count": -1}}),
    ("progress.preview_count", {"progress": {"preview_count": 17}}),
    ("allowed_fallbacks.kinds", {"allowed_fallbacks": {"kinds": [0]}}),
    ("allowed_fallbacks.kinds", {"allowed_fallbacks": {"kinds": [1, 77]}}),
    ("allowed_fallbacks.kinds", {"allowed_fallbacks": {"kinds": [1] * 1000}}),
    ("micro_conditioning.original_size.width", {"micro_conditioning": {"original_size": {"width": 0, "height": 1}}}),
    ("micro_conditioning.target_size.height", {"micro_conditioning": {"target_size": {"width": 1, "height": -5}}}),
    ("micro_conditioning.target_size.width", {"micro_conditioning": {"target_size": {"width": HUGE, "height": 1}}}),
    ("micro_conditioning.crops_coords_top_left.x", {"micro_conditioning": {"crops_coords_top_left": {"x": -1}}}),
    (
        "micro_conditioning.negative_crops_coords_top_left.y",
        {"micro_conditioning": {"negative_crops_coords_top_left": {"y": HUGE}}},
    ),
    (
        "micro_conditioning.negative_target_size",
        {"use_refinement": False, "micro_conditioning": {"negative_target_size": {"width": 8, "height": 8}}},
    ),
    (
        "micro_conditioning.negative_crops_coords_top_left",
        {"use_refinement": False, "micro_conditioning": {"negative_crops_coords_top_left": {"x": 8}}},
    ),
    ("use_generation", {"use_generation": False}),
    ("on_disconnect", {"on_disconnect": 3}),
]


@pytest.mark.parametrize(("field", "fields"), BAD)
def test_bad_field_is_named(field: str, fields: dict[str, object]) -> None:
    """One wrong field gives exactly one violation, with its path in the contract."""
    assert fields_of(request(**fields)) == [field]


NEGATIVE: dict[str, object] = {
    "negative_original_size": {"width": 8, "height": 8},
    "negative_target_size": {"width": 8, "height": 8},
    "negative_crops_coords_top_left": {"x": 8},
}
"""Everything that the base reads."""

GOOD: list[dict[str, object]] = [
    {},
    {"request_id": "A-z.0_9:x"},
    {"request_id": "x" * 128},
    {"prompt": "x" * 2000},
    {"negative_prompt": ""},
    {"num_inference_steps": 20},
    {"num_inference_steps": 100},
    {"guidance_scale": 1.0},
    {"guidance_scale": 20.0},
    {"width": 64, "height": 2048},
    {"num_images": 8, "seed": 2**63 - 8},
    {"seed": 0},
    {"priority": "PRIORITY_BATCH"},
    {"refiner": {"num_inference_steps": 1, "strength": 1.0}},
    {"refiner": {"mode": "REFINER_MODE_ENSEMBLE", "switch_at": 0.5}},
    {"refiner": {"aesthetic_score": 0.0, "negative_aesthetic_score": 10.0, "guidance_scale": 1.0}},
    {"use_refinement": False, "refiner": {}},
    {"output": {"mime_type": "image/webp", "quality": 100}},
    {"output": {"mime_type": "image/png", "embed_parameters": False}},
    {"progress": {"min_interval": {}, "preview_count": 16}},
    {"progress": {"min_interval": {"seconds": 60}}},
    {"allowed_fallbacks": {}},
    {"allowed_fallbacks": {"kinds": [1, 1]}},
    {"micro_conditioning": {"original_size": {"width": 1, "height": 1}, "crops_coords_top_left": {"x": 0, "y": 9}}},
    {"micro_conditioning": {"negative_original_size": {"width": 8, "height": 8}}},
    {"micro_conditioning": {"negative_crops_coords_top_left": {"x": 8}}},
    {"use_refinement": False, "micro_conditioning": NEGATIVE},
    {"on_disconnect": "ON_DISCONNECT_STOP"},
    {"on_disconnect": "ON_DISCONNECT_CONTINUE"},
    {"use_generation": True, "isolate_batch": True, "validate_only": True, "high_quality": False},
]


@pytest.mark.parametrize("fields", GOOD)
def test_bounds_are_inside(fields: dict[str, object]) -> None:
    """What the contract allows, its bounds included, is accepted."""
    assert fields_of(request(**fields)) == []


def test_everything_wrong_is_said_at_once() -> None:
    """A caller need not find its mistakes one by one."""
    message = request(
        request_id="a b",
        prompt="",
        prompt_2="x" * 3000,
        num_inference_steps=-1,
        guidance_scale=NAN,
        width=7,
        height=HUGE,
        num_images=0,
        seed=-1,
        priority=9,
        on_disconnect=9,
        use_refinement=False,
        refiner={"mode": 9, "num_inference_steps": 0, "strength": NAN, "switch_at": INF, "aesthetic_score": -1.0},
        output={"mime_type": "text/html", "quality": 0},
        progress={"min_interval": {"seconds": -1}, "preview_count": 99},
        allowed_fallbacks={"kinds": [0]},
        micro_conditioning={"target_size": {}, "crops_coords_top_left": {"x": -1, "y": -1}},
        use_generation=False,
    )
    assert fields_of(message) == [
        "request_id",
        "prompt",
        "prompt_2",
        "num_inference_steps",
        "guidance_scale",
        "num_images",
        "seed",
        "width",
        "height",
        "refiner",
        "refiner.mode",
        "refiner.num_inference_steps",
        "refiner.strength",
        "refiner.switch_at",
        "refiner.aesthetic_score",
        "output.mime_type",
        "output.quality",
        "progress.min_interval",
        "progress.preview_count",
        "priority",
        "on_disconnect",
        "allowed_fallbacks.kinds",
        "micro_conditioning.target_size.width",
        "micro_conditioning.target_size.height",
        "micro_conditioning.crops_coords_top_left.x",
        "micro_conditioning.crops_coords_top_left.y",
        "use_generation",
    ]


def test_total_pixels_are_limited() -> None:
    """Both sides may be allowed and their product not."""
    profile = replace(PROFILE, limits=Limits(max_pixels=512 * 512))
    found = validation.violations_of(request(width=1024, height=512), profile)
    assert [violation.field for violation in found] == ["width"]
    assert "524288" in found[0].description


def test_isolation_can_be_forbidden() -> None:
    """An operator's refusal of isolate_batch is a violation."""
    found = validation.violations_of(request(isolate_batch=True), PROFILE, allow_isolate_batch=False)
    assert [violation.field for violation in found] == ["isolate_batch"]


@given(st.binary(max_size=300))
def test_any_message_is_judged(raw: bytes) -> None:
    """Whatever parses is answered with violations or accepted: never an exception."""
    message = pb.GenerateImageRequest(prompt="x")
    try:
        message.MergeFromString(raw)
    except Exception:  # noqa: BLE001 # what does not parse is another test's matter
        return
    for violation in validation.violations_of(message, PROFILE):
        assert violation.field
        assert violation.description.isascii()
        assert len(violation.description) < 200


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "num_inference_steps": st.integers(-(2**31), 2**31 - 1),
            "guidance_scale": st.floats(),
            "width": st.integers(-(2**31), 2**31 - 1),
            "height": st.integers(-(2**31), 2**31 - 1),
            "num_images": st.integers(-(2**31), 2**31 - 1),
            "seed": st.integers(-(2**63), 2**63 - 1),
        },
    )
)
def test_accepted_numbers_are_within_limits(fields: dict[str, float]) -> None:
    """No number outside the profile's limits is ever accepted."""
    message = request(**fields)
    if fields_of(message):
        return
    limits = PROFILE.limits
    assert limits.min_steps <= fields.get("num_inference_steps", 50) <= limits.max_steps
    assert limits.min_guidance_scale <= fields.get("guidance_scale", 8.0) <= limits.max_guidance_scale
    assert fields.get("width", 128) % 8 == 0
    assert limits.min_side <= fields.get("height", 128) <= limits.max_side
    assert 0 <= fields.get("seed", 0) <= 2**63 - fields.get("num_images", 1)


def test_a_number_is_told_to_its_last_digit() -> None:
    """What is just above a bound is not told as the bound."""
    message = request(guidance_scale=math.nextafter(20, INF), refiner={"strength": 2})
    message.progress.min_interval.FromNanoseconds(60 * 10**9 + 1)
    found = {violation.field: violation.description for violation in validation.violations_of(message, PROFILE)}
    assert found == {
        "guidance_scale": "must be at least 1 and at most 20, got 20.000000000000004",
        "refiner.strength": "must be above 0 and at most 1, got 2",
        "progress.min_interval": "must be 0 to 60 s, got 60.000000001 s",
    }


def test_a_webp_is_no_larger_than_the_format_allows() -> None:
    """Where an operator lets sides be longer, other formats have them; a WebP would fail when all work is done."""
    limits = replace(PROFILE.limits, max_side=16_384, max_pixels=2**28)
    profile = replace(PROFILE, limits=limits)
    for mime_type, wrong in (("image/webp", ["height"]), ("image/jpeg", []), ("", [])):
        message = request(width=64, height=16_384, output={"mime_type": mime_type})
        assert [violation.field for violation in validation.violations_of(message, profile)] == wrong
