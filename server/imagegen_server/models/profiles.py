"""The model profiles: where weights come from, with native size, limits and defaults. A table; imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from imagegen_server.core import Defaults, Limits, ModelProfile
from imagegen_server.errors import NotFound
from imagegen_server.models.architecture import SDXL_BASE, SHAPES_BASE, Architecture

SHAPES = "shapes"
SDXL = "sdxl"
SYNTHETIC_SDXL = "synthetic-sdxl"
FAKE = "fake"

SDXL_BASE_SOURCE = "stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b"
SDXL_REFINER_SOURCE = "stabilityai/stable-diffusion-xl-refiner-1.0@5d4cfe854c9a9a87939ff3653551c2b3c99a4356"
"""Repositories on the Hugging Face hub, pinned to a commit."""

BUILT_IN = "built in"
"""The source of weights that are made on this machine."""


@dataclass(kw_only=True, frozen=True, slots=True)
class _Entry:
    profile: ModelProfile
    """Without its schedulers."""
    schedulers: Callable[[], tuple[str, ...]]


@cache
def _diffusers_schedulers(architecture: Architecture) -> tuple[str, ...]:
    from imagegen_server.models.schedulers import available_schedulers  # noqa: PLC0415 - heavy

    return available_schedulers(architecture.config("scheduler"))


def _fake_schedulers() -> tuple[str, ...]:
    from imagegen_server.models.fake import SCHEDULERS  # noqa: PLC0415 - keeps the table light

    return SCHEDULERS


_SDXL_LIMITS = Limits(min_side=256, max_side=2048, max_pixels=2048 * 2048)
"""Stable Diffusion XL was trained at about a megapixel; far below 512 it draws noise, far above it repeats itself."""

_ENTRIES = (
    _Entry(
        profile=ModelProfile(
            name=SHAPES,
            description="Embedded small pair with SDXL's architecture, 128x128; needs no download and no GPU",
            base_source=BUILT_IN,
            refiner_source=BUILT_IN,
            limits=Limits(min_side=64, max_side=512, max_pixels=512 * 512),
            defaults=Defaults(width=128, height=128),
            schedulers=(),
        ),
        schedulers=lambda: _diffusers_schedulers(SHAPES_BASE),
    ),
    _Entry(
        profile=ModelProfile(
            name=SDXL,
            description="Stable Diffusion XL 1.0, base and refiner, from the Hugging Face hub or local directories",
            base_source=SDXL_BASE_SOURCE,
            refiner_source=SDXL_REFINER_SOURCE,
            limits=_SDXL_LIMITS,
            defaults=Defaults(),
            schedulers=(),
        ),
        schedulers=lambda: _diffusers_schedulers(SDXL_BASE),
    ),
    _Entry(
        profile=ModelProfile(
            name=SYNTHETIC_SDXL,
            description="Stable Diffusion XL's full architecture with random weights, for capacity planning",
            base_source=BUILT_IN,
            refiner_source=BUILT_IN,
            limits=_SDXL_LIMITS,
            defaults=Defaults(),
            schedulers=(),
        ),
        schedulers=lambda: _diffusers_schedulers(SDXL_BASE),
    ),
    _Entry(
        profile=ModelProfile(
            name=FAKE,
            description="Scripted runner without models, with injectable faults, for integration tests",
            base_source=BUILT_IN,
            refiner_source=BUILT_IN,
            limits=Limits(min_steps=1, min_side=8),
            defaults=Defaults(),
            schedulers=(),
        ),
        schedulers=_fake_schedulers,
    ),
)

NAMES = tuple(entry.profile.name for entry in _ENTRIES)
"""Every profile's name."""


def bare_profile(name: str) -> ModelProfile:
    """Returns a profile without its schedulers, at once. Raises `errors.NotFound` for an unknown name."""
    return _entry(name).profile


def profile(name: str) -> ModelProfile:
    """Returns a profile with the schedulers that load here; tries them, which takes about a second.

    Raises `errors.NotFound` for an unknown name.
    """
    entry = _entry(name)
    return replace(entry.profile, schedulers=entry.schedulers())


def profiles() -> tuple[ModelProfile, ...]:
    """Returns every profile, as `profile` does."""
    return tuple(profile(name) for name in NAMES)


def _entry(name: str) -> _Entry:
    for entry in _ENTRIES:
        if entry.profile.name == name:
            return entry
    raise NotFound("model", name, f"model {name!r} is not known; there are {', '.join(NAMES)}")
