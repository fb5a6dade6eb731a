"""The models' room: profiles, loading, and the runners that own the device. Importing it loads no torch.

profiles           which models there are; fake/ plays a script, `synthetic` draws its weights
factory            from a profile and the operator's choices to a runner
  sources/         the files of a pair
  loading          puts the pair on the `device`, as `precision` and memory/ say; imports/ makes that quick
sdxl_runner        the runner of a pair (`pair`)
  stages/          what each stage does to a job
  evaluation/      how a UNet runs fastest
  relief           what is given up when memory runs out; `failures` tells that from what is a job's own
doctor             the same decisions without loading anything
"""

from __future__ import annotations

__all__ = [
    "PROFILE_NAMES",
    "ModelOptions",
    "allocator_stats",
    "bare_profile",
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
