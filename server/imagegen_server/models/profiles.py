"""The model profiles: where weights come from, with native size, limits and defaults. A table; imports no torch."""

from __future__ import annotations

from imagegen_server.core import Defaults, Limits, ModelProfile
from imagegen_server.errors import NotFound

SHAPES = "shapes"
SDXL = "sdxl"
SYNTHETIC_SDXL = "synthetic-sdxl"
FAKE = "fake"

SDXL_BASE_SOURCE = "stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b"
SDXL_REFINER_SOURCE = "stabilityai/stable-diffusion-xl-refiner-1.0@5d4cfe854c9a9a87939ff3653551c2b3c99a4356"
"""Repositories on the Hugging Face hub, pinned to a commit."""

BUILT_IN = "built in"
"""The source of weights that are made on this machine."""


_SDXL_ROWS = 4
"""At 1024x1024 two guided images in a batch already fill a GPU; more rows only take memory."""

_SHAPES_GUIDANCE = 2.5
"""Where the embedded pair is right most often: its prompts say everything, so little has to be insisted on. Its refiner
begins at a lower noise level than SDXL's for the same reason: much noise hides what small shapes are."""

_SDXL_LIMITS = Limits(min_side=256, max_side=2048, max_pixels=2048 * 2048)
"""Stable Diffusion XL was trained at about a megapixel; far below 512 it draws noise, far above it repeats itself."""

_PROFILES = (
    ModelProfile(
        name=SHAPES,
        description="Embedded small pair with SDXL's architecture, 128x128; needs no download and no GPU",
        base_source=BUILT_IN,
        refiner_source=BUILT_IN,
        limits=Limits(min_side=64, max_side=512, max_pixels=512 * 512),
        defaults=Defaults(
            width=128,
            height=128,
            num_inference_steps=30,
            fast_num_inference_steps=20,
            guidance_scale=_SHAPES_GUIDANCE,
            fast_guidance_scale=_SHAPES_GUIDANCE,
            refiner_num_inference_steps=20,
            refiner_guidance_scale=_SHAPES_GUIDANCE,  # more deepens the texture until it is another colour
            refiner_strength=0.1,
            refiner_switch_at=0.9,
        ),
        schedulers=(),
    ),
    ModelProfile(
        name=SDXL,
        description="Stable Diffusion XL 1.0, base and refiner, from the Hugging Face hub or local directories",
        base_source=SDXL_BASE_SOURCE,
        refiner_source=SDXL_REFINER_SOURCE,
        limits=_SDXL_LIMITS,
        defaults=Defaults(),
        schedulers=(),
        row_budget=_SDXL_ROWS,
    ),
    ModelProfile(
        name=SYNTHETIC_SDXL,
        description="Stable Diffusion XL's full architecture with random weights, for capacity planning",
        base_source=BUILT_IN,
        refiner_source=BUILT_IN,
        limits=_SDXL_LIMITS,
        defaults=Defaults(),
        schedulers=(),
        row_budget=_SDXL_ROWS,
    ),
    ModelProfile(
        name=FAKE,
        description="Scripted runner without models, with injectable faults, for integration tests",
        base_source=BUILT_IN,
        refiner_source=BUILT_IN,
        limits=Limits(max_side=4096, max_pixels=4096 * 4096),
        defaults=Defaults(),
        schedulers=(),
    ),
)

NAMES = tuple(profile.name for profile in _PROFILES)
"""Every profile's name."""


def bare_profile(name: str) -> ModelProfile:
    """Returns a profile; its schedulers are filled in when a model is loaded, which is what shows them.

    Raises `errors.NotFound` for an unknown name.
    """
    for profile in _PROFILES:
        if profile.name == name:
            return profile
    raise NotFound("model", name, f"model {name!r} is not known; there are {', '.join(NAMES)}")
