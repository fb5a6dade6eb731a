"""The text form of generation parameters."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable

from imagegen_server import core
from imagegen_server.output import parameters_text

MakeRequest = Callable[..., core.GenerationRequest]

_ENTRY = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""How viewers split the last line."""


def _entries(text: str) -> dict[str, str]:
    found = dict(_ENTRY.findall(text.splitlines()[-1]))
    return {key: json.loads(value) if value.startswith('"') else value for key, value in found.items()}


def test_text_of_a_request_with_both_stages(make_request: MakeRequest) -> None:
    """The whole text, with a negative prompt and the refiner in image-to-image mode."""
    assert parameters_text(make_request(negative_prompt="blurry"), 1).splitlines() == [
        "a red circle on a blue background",
        "Negative prompt: blurry",
        "Steps: 50, Sampler: EulerDiscreteScheduler, CFG scale: 8.0, Seed: 42, Size: 37x21, Model: sdxl, "
        "Refiner mode: image_to_image, Refiner steps: 30, Denoising strength: 0.3, Refiner CFG scale: 8.0, "
        "Aesthetic score: 6.0, Negative aesthetic score: 2.5, Version: ImageGen",
    ]


def test_without_refiner_nothing_of_it_is_written(make_request: MakeRequest) -> None:
    """A request without refinement, and one whose refiner was given up, say nothing of a refiner."""
    plain = parameters_text(make_request(use_refinement=False, refiner=None), 0)
    assert "efiner" not in plain
    assert "esthetic" not in plain
    assert parameters_text(make_request(), 0, refined=False) == plain


def test_ensemble_mode_writes_where_it_switches(make_request: MakeRequest) -> None:
    """In ensemble mode the switch is written, and neither steps nor strength of the refiner."""
    refiner = make_request().refiner
    assert refiner is not None
    ensemble = dataclasses.replace(
        refiner, mode=core.RefinerMode.ENSEMBLE, switch_at=0.8, num_inference_steps=None, strength=None
    )
    entries = _entries(parameters_text(make_request(refiner=ensemble), 0))
    assert entries["Refiner switch at"] == "0.8"
    assert "Refiner steps" not in entries
    assert "Denoising strength" not in entries


def test_values_with_separators_are_quoted_so_that_viewers_read_them_back(make_request: MakeRequest) -> None:
    """Second prompts with commas, colons, quotes and line breaks survive the viewers' way of splitting."""
    hostile = 'a, b: "c"\nSteps: 1, 城'
    refiner = make_request().refiner
    assert refiner is not None
    request = make_request(
        prompt_2=hostile, negative_prompt_2=hostile, refiner=dataclasses.replace(refiner, prompt=hostile)
    )
    entries = _entries(parameters_text(request, 0))
    assert entries["Prompt 2"] == entries["Negative prompt 2"] == entries["Refiner prompt"] == hostile
    assert (entries["Steps"], entries["Seed"], entries["Model"]) == ("50", "41", "sdxl")
