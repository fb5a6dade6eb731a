"""The models' room: profiles, loading, and the runners that own the device. Importing it loads no torch."""

from __future__ import annotations

__all__ = [
    "PROFILE_NAMES",
    "ModelOptions",
    "allocator_stats",
    "diagnose",
    "load_runner",
    "model_profiles",
    "tune",
]

from imagegen_server.core import ModelProfile
from imagegen_server.models.device import allocator_stats
from imagegen_server.models.doctor import diagnose
from imagegen_server.models.factory import ModelOptions, load_runner
from imagegen_server.models.factory import write_tuning as tune
from imagegen_server.models.profiles import NAMES as PROFILE_NAMES
from imagegen_server.models.profiles import bare_profile


def model_profiles() -> tuple[ModelProfile, ...]:
    """Returns every profile, without schedulers: which of them load is known of a loaded model only."""
    return tuple(bare_profile(name) for name in PROFILE_NAMES)
