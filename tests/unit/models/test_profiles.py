"""The table of model profiles."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from imagegen_server import errors
from imagegen_server.core import Limits
from imagegen_server.models import PROFILE_NAMES, model_profiles
from imagegen_server.models.profiles import SDXL_BASE_SOURCE, SDXL_REFINER_SOURCE, bare_profile


def test_every_profile_is_found_by_its_name() -> None:
    """The names are the closed set of the profiles, without repetition."""
    assert [profile.name for profile in model_profiles()] == list(PROFILE_NAMES)
    assert set(PROFILE_NAMES) == {"shapes", "sdxl", "synthetic-sdxl", "fake"}


def test_an_unknown_profile_is_named_with_those_that_exist() -> None:
    """The error tells a caller what to write instead."""
    with pytest.raises(errors.NotFound, match=r"'sd3' is not known; there are shapes, sdxl") as caught:
        bare_profile("sd3")
    assert (caught.value.kind, caught.value.name) == ("model", "sd3")


@pytest.mark.parametrize("source", [SDXL_BASE_SOURCE, SDXL_REFINER_SOURCE])
def test_published_weights_are_pinned_to_a_commit(source: str) -> None:
    """A branch could change under a running fleet; a commit cannot."""
    assert re.fullmatch(r"stabilityai/stable-diffusion-xl-(base|refiner)-1\.0@[0-9a-f]{40}", source)


@pytest.mark.parametrize("name", PROFILE_NAMES)
def test_defaults_lie_within_the_limits(name: str) -> None:
    """A request that sets nothing is valid for its own profile."""
    profile = bare_profile(name)
    limits, defaults = profile.limits, profile.defaults
    for steps in (defaults.num_inference_steps, defaults.fast_num_inference_steps):
        assert limits.min_steps <= steps <= limits.max_steps
    for side in (defaults.width, defaults.height):
        assert limits.min_side <= side <= limits.max_side
        assert side % limits.side_multiple == 0
    assert defaults.width * defaults.height <= limits.max_pixels
    for scale in (defaults.guidance_scale, defaults.fast_guidance_scale):
        assert limits.min_guidance_scale <= scale <= limits.max_guidance_scale
    assert defaults.refiner_num_inference_steps <= limits.max_refiner_steps


def test_sdxl_has_the_documented_defaults_and_ranges() -> None:
    """50 steps at guidance 8, 30 refiner steps, 1024x1024; 20 to 100 steps, guidance 1 to 20."""
    profile = bare_profile("sdxl")
    defaults = profile.defaults
    assert (defaults.num_inference_steps, defaults.guidance_scale, defaults.refiner_num_inference_steps) == (50, 8, 30)
    assert (defaults.fast_num_inference_steps, defaults.fast_guidance_scale) == (30, 7.5)
    assert (defaults.width, defaults.height) == (1024, 1024)
    limits: Limits = profile.limits
    assert (limits.min_steps, limits.max_steps) == (20, 100)
    assert (limits.min_guidance_scale, limits.max_guidance_scale) == (1.0, 20.0)


def test_the_room_is_imported_without_its_heavy_libraries() -> None:
    """Profiles, options and the allocator's figures are there before torch is."""
    program = (
        "import sys\nimport imagegen_server.models as m\nm.model_profiles()\nassert m.allocator_stats() == {}\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
