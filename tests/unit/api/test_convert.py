"""Requests become complete: defaults, seeds, ids and what is embedded in the file."""

from __future__ import annotations

import dataclasses
import json
import uuid
from typing import Any

import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import convert
from imagegen_server.core import (
    FallbackKind,
    GenerationRequest,
    ModelProfile,
    OutputSettings,
    Priority,
    RefinerMode,
    RefinerSettings,
)
from support.scripted_engine import OTHER_PROFILE, PROFILE


def converted(profile: ModelProfile = PROFILE, **fields: object) -> GenerationRequest:
    """Returns the complete request for a valid one with some fields set."""
    message = pb.GenerateImageRequest(**{"prompt": "a cat", **fields})  # type: ignore[arg-type] # any field
    profiles = (OTHER_PROFILE, profile)
    return convert.to_generation(message, request_id="id", loaded=profile, profiles=profiles, plan=plan)


def plan(request: GenerationRequest) -> None:
    """Refuses steps as a runner does that needs forty for its refiner."""
    if request.refiner is not None and request.num_inference_steps < 40:
        raise errors.InvalidRequest((errors.Violation(field="refiner.strength", description="leaves no step"),))


def test_only_a_prompt_is_needed() -> None:
    """Every unset field takes the profile's default."""
    request = converted()
    assert (request.num_inference_steps, request.guidance_scale) == (50, 8.0)
    assert (request.width, request.height, request.num_images) == (128, 128, 1)
    assert request.scheduler == "EulerDiscreteScheduler"
    assert request.model == "tiny"
    assert request.negative_prompt is None
    assert request.priority is Priority.INTERACTIVE
    assert request.allowed_fallbacks == set(FallbackKind)
    assert request.min_progress_interval == 0.25
    assert (request.output.mime_type, request.output.quality, request.output.embed_parameters) == (
        "image/png",
        90,
        True,
    )
    refiner = request.refiner
    assert refiner is not None
    assert (refiner.mode, refiner.num_inference_steps, refiner.strength) == (RefinerMode.IMAGE_TO_IMAGE, 30, 0.3)
    assert (refiner.switch_at, refiner.guidance_scale) == (None, 8.0)
    assert (refiner.aesthetic_score, refiner.negative_aesthetic_score, refiner.prompt) == (6.0, 2.5, "")


def test_what_is_given_is_what_is_asked_for() -> None:
    """Every field that has no test of its own arrives as it was sent."""
    request = converted(
        prompt_2="two",
        negative_prompt="no",
        negative_prompt_2="nor",
        num_images=2,
        scheduler="DDIMScheduler",
        priority="PRIORITY_BATCH",
        isolate_batch=True,
        on_disconnect="ON_DISCONNECT_CONTINUE",
        progress={"min_interval": {"seconds": 1, "nanos": 500_000_000}, "preview_count": 3},
        output={"mime_type": "image/webp", "quality": 55, "embed_parameters": False},
        allowed_fallbacks={"kinds": ["FALLBACK_KIND_TILED_DECODE"]},
        refiner={
            "num_inference_steps": 9,
            "strength": 0.5,
            "aesthetic_score": 5.0,
            "negative_aesthetic_score": 3.0,
            "prompt": "sharp",
        },
    )
    assert (request.prompt, request.prompt_2) == ("a cat", "two")
    assert (request.negative_prompt, request.negative_prompt_2) == ("no", "nor")
    assert (request.num_images, request.scheduler, request.priority) == (2, "DDIMScheduler", Priority.BATCH)
    assert (request.isolate_batch, request.outlives_call) == (True, True)
    assert (request.min_progress_interval, request.preview_count) == (1.5, 3)
    assert request.output == OutputSettings(mime_type="image/webp", quality=55, embed_parameters=False)
    assert request.allowed_fallbacks == {FallbackKind.TILED_DECODE}
    assert request.refiner == RefinerSettings(
        mode=RefinerMode.IMAGE_TO_IMAGE,
        num_inference_steps=9,
        strength=0.5,
        switch_at=None,
        guidance_scale=8.0,
        aesthetic_score=5.0,
        negative_aesthetic_score=3.0,
        prompt="sharp",
    )


def test_low_quality_lowers_what_is_unset() -> None:
    """high_quality=false changes steps and guidance, the refiner's included."""
    request = converted(high_quality=False)
    assert (request.num_inference_steps, request.guidance_scale) == (30, 7.5)
    assert request.refiner is not None
    assert request.refiner.guidance_scale == 7.5


def test_a_profile_may_have_a_guidance_for_its_refiner() -> None:
    """It holds whatever the base's guidance is, unless the caller says otherwise."""
    own = dataclasses.replace(PROFILE, defaults=dataclasses.replace(PROFILE.defaults, refiner_guidance_scale=2.5))
    for fields, expected in (({"guidance_scale": 9.0}, 2.5), ({"refiner": {"guidance_scale": 4.0}}, 4.0)):
        refiner = converted(profile=own, **fields).refiner
        assert refiner is not None
        assert refiner.guidance_scale == expected


def test_low_quality_leaves_what_is_set() -> None:
    """The caller's own numbers win over high_quality."""
    request = converted(high_quality=False, num_inference_steps=70, guidance_scale=3.0)
    assert (request.num_inference_steps, request.guidance_scale) == (70, 3.0)


def test_ensemble_mode_has_its_own_options() -> None:
    """In ensemble mode only switch_at is in force."""
    refiner = converted(refiner={"mode": "REFINER_MODE_ENSEMBLE"}).refiner
    assert refiner is not None
    assert (refiner.mode, refiner.switch_at) == (RefinerMode.ENSEMBLE, 0.8)
    assert (refiner.num_inference_steps, refiner.strength) == (None, None)


def test_without_refinement_there_are_no_refiner_settings() -> None:
    """refiner is None exactly if use_refinement is false."""
    assert converted(use_refinement=False).refiner is None
    assert converted(use_refinement=True).refiner is not None


def test_empty_fallback_policy_allows_none() -> None:
    """An empty policy is not the same as none given."""
    assert converted(allowed_fallbacks={}).allowed_fallbacks == frozenset()


def test_empty_negative_prompt_is_not_unset() -> None:
    """diffusers treats the two differently, so both must arrive."""
    assert converted(negative_prompt="").negative_prompt == ""


def test_zero_is_a_seed_and_a_progress_interval() -> None:
    """Zero is taken as given, not as unset."""
    request = converted(seed=0, progress={"min_interval": {}})
    assert (request.seed, request.min_progress_interval) == (0, 0.0)


def test_unset_seeds_are_drawn() -> None:
    """Drawn seeds differ and can be used again."""
    seeds = {converted().seed for _ in range(20)}
    assert len(seeds) > 15
    assert max(seeds) < 2**32, "as long as JavaScript can tell it"
    assert all(converted(seed=seed, num_images=8).seed == seed for seed in seeds)


def test_micro_conditioning_is_height_first() -> None:
    """The contract names sides, diffusers wants (height, width) and (top, left)."""
    given = converted(
        micro_conditioning={
            "original_size": {"width": 2, "height": 1},
            "crops_coords_top_left": {"x": 4, "y": 3},
            "negative_original_size": {"width": 6, "height": 5},
            "negative_crops_coords_top_left": {"x": 10, "y": 9},
            "negative_target_size": {"width": 8, "height": 7},
        }
    ).micro_conditioning
    assert given.original_size == (1, 2)
    assert given.target_size is None
    assert given.crops_coords_top_left == (3, 4)
    assert given.negative_original_size == (5, 6)
    assert given.negative_crops_coords_top_left == (9, 10)
    assert given.negative_target_size == (7, 8)


def test_parameters_are_json_and_complete() -> None:
    """What is embedded in the file is enough to ask for the same image again."""
    request = converted(
        negative_prompt="dogs",
        seed=7,
        refiner={"prompt": "sharp"},
        micro_conditioning={
            "original_size": {"width": 2, "height": 1},
            "crops_coords_top_left": {"x": 4, "y": 3},
            "negative_crops_coords_top_left": {"x": 6, "y": 5},
        },
    )
    parameters = json.loads(json.dumps(dict(request.parameters)))
    assert parameters["prompt"] == "a cat"
    assert parameters["negative_prompt"] == "dogs"
    assert parameters["seed"] == 7
    assert parameters["refiner"]["prompt"] == "sharp"
    assert parameters["micro_conditioning"]["original_size"] == {"width": 2, "height": 1}
    again = converted(**parameters_as_fields(parameters))
    assert again == request


def test_parameters_tell_an_empty_negative_prompt_from_none() -> None:
    """The two make different images."""
    assert converted(prompt="a cat", negative_prompt="").parameters["negative_prompt"] == ""
    assert "negative_prompt" not in converted(prompt="a cat").parameters


def parameters_as_fields(parameters: dict[str, Any]) -> dict[str, Any]:
    """Returns embedded parameters as fields of a request."""
    refiner = dict(parameters["refiner"])
    refiner["mode"] = f"REFINER_MODE_{refiner['mode'].upper()}"
    return {**parameters, "refiner": refiner}


def test_names_are_violations_beside_others() -> None:
    """Whoever mends the one finds no other; a name that is wrong in itself is named once."""
    for fields, expected in (
        ({"model": "nope", "scheduler": "nope", "num_images": 0}, ["num_images", "model", "scheduler"]),
        ({"scheduler": "x" * 129}, ["scheduler"]),
    ):
        with pytest.raises(errors.InvalidRequest) as caught:
            converted(**fields)
        assert [violation.field for violation in caught.value.violations] == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"seed": -1, "num_inference_steps": 39}, ["seed", "refiner.strength"]),
        ({"seed": -1, "num_inference_steps": 40}, ["seed"]),
        ({"seed": -1, "num_inference_steps": 39, "use_refinement": False}, ["seed"]),
        ({"num_inference_steps": -9, "width": 1}, ["num_inference_steps", "width"]),
        ({"seed": -1, "num_inference_steps": 39, "scheduler": "nope"}, ["seed", "scheduler"]),
        ({"prompt": "", "num_inference_steps": 39}, ["prompt", "refiner.strength"]),
    ],
)
def test_steps_that_cannot_be_run_are_violations_beside_others(fields: dict[str, Any], expected: list[str]) -> None:
    """If the fields that decide them are valid by themselves."""
    with pytest.raises(errors.InvalidRequest) as caught:
        converted(**fields)
    assert [violation.field for violation in caught.value.violations] == expected


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"model": "nope"}, "model", "unknown"),
        ({"model": "other"}, "model", "not loaded"),
        ({"scheduler": "NopeScheduler"}, "scheduler", "NopeScheduler"),
    ],
)
def test_unknown_names(fields: dict[str, Any], kind: str, says: str) -> None:
    """Unknown and unloaded models and unknown schedulers are not found; the message helps."""
    with pytest.raises(errors.NotFound, match=says) as caught:
        converted(**fields)
    assert caught.value.kind == kind
    assert "tiny" in str(caught.value)


def test_another_models_limits_apply_to_it() -> None:
    """A request for a known model is held to that model's ranges before its absence is reported."""
    with pytest.raises(errors.InvalidRequest):
        converted(model="other", num_inference_steps=50)
    with pytest.raises(errors.NotFound):
        converted(model="other", num_inference_steps=40)


def test_fingerprint_ignores_the_id_and_nothing_else() -> None:
    """A retry with the same id and body is the same request; another body is not."""
    first = pb.GenerateImageRequest(request_id="a", prompt="x", seed=0)
    assert convert.fingerprint(first) == convert.fingerprint(
        pb.GenerateImageRequest(request_id="b", prompt="x", seed=0)
    )
    assert convert.fingerprint(first) != convert.fingerprint(pb.GenerateImageRequest(request_id="a", prompt="x"))
    assert first.request_id == "a"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "\n", "\u00e9"])
def test_unusable_ids_are_replaced_by_uuids(bad: str) -> None:
    """An id that cannot be echoed in metadata never is."""
    assert uuid.UUID(convert.request_id_of(bad)).version == 4
    assert convert.request_id_of("mine") == "mine"
