"""Settings of what a request may ask for."""

from __future__ import annotations

import dataclasses

from pydantic import Field, ValidationInfo, field_validator

from imagegen_server.core import Limits
from imagegen_server.errors import StartupError
from imagegen_server.settings.group import Group


class LimitSettings(Group):
    """Limits of a request, instead of the profile's, whose defaults are brought into them"""

    min_steps: int | None = Field(None, ge=1, le=1000, description="Fewest base steps.")
    max_steps: int | None = Field(None, ge=1, le=1000, description="Most base steps.")
    max_refiner_steps: int | None = Field(None, ge=1, le=1000, description="Most refiner steps.")
    min_guidance_scale: float | None = Field(None, ge=0, le=100, description="Least guidance.")
    max_guidance_scale: float | None = Field(None, ge=0, le=100, description="Most guidance.")
    max_side: int | None = Field(None, ge=64, le=16384, description="Longest side in pixels.")
    max_pixels: int | None = Field(None, ge=4096, le=2**28, description="Most pixels in an image.")
    max_images: int | None = Field(None, ge=1, le=1000, description="Most images of one request.")
    max_prompt_characters: int | None = Field(None, ge=1, le=100_000, description="Longest prompt.")

    @field_validator("max_steps", "max_guidance_scale")
    @classmethod
    def _at_least_the_least(cls, value: float | None, info: ValidationInfo) -> float | None:
        least = info.data.get(f"min_{str(info.field_name).removeprefix('max_')}")
        if value is not None and least is not None and value < least:
            raise ValueError(f"is below the least, {least}")
        return value

    def limits(self, profile: Limits) -> Limits:
        """Returns a profile's limits with what is set here; StartupError if they then admit nothing."""
        chosen = {name: getattr(self, name) for name in LimitSettings.model_fields}
        limits = dataclasses.replace(profile, **{name: value for name, value in chosen.items() if value is not None})
        for least, most in (
            ("min_steps", "max_steps"),
            ("min_guidance_scale", "max_guidance_scale"),
            ("min_side", "max_side"),
        ):
            if getattr(limits, least) > getattr(limits, most):
                raise StartupError(f"{least} {getattr(limits, least)} is above {most} {getattr(limits, most)}")
        if limits.min_side**2 > limits.max_pixels:
            raise StartupError(f"min_side {limits.min_side} squared is above max_pixels {limits.max_pixels}")
        return limits
