"""The models' room: profiles, loading, and the runners that own the device. Importing it loads no torch."""

from __future__ import annotations

__all__ = [
    "PROFILE_NAMES",
    "DoctorReport",
    "DownloadProgress",
    "ModelOptions",
    "allocator_stats",
    "diagnose",
    "load_runner",
    "model_profiles",
    "tune",
]

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen_server.core import ModelProfile
from imagegen_server.models.doctor import DoctorReport
from imagegen_server.models.factory import ModelOptions
from imagegen_server.models.profiles import NAMES as PROFILE_NAMES
from imagegen_server.models.profiles import bare_profile
from imagegen_server.models.sources.download_progress import DownloadProgress

if TYPE_CHECKING:
    from imagegen_server.models.fake.runner import FakeRunner
    from imagegen_server.models.sdxl_runner import SDXLRunner


def load_runner(
    profile_name: str, options: ModelOptions, on_progress: Callable[[DownloadProgress], None] | None = None
) -> SDXLRunner | FakeRunner:
    """Returns the runner of a profile with everything loaded.

    `on_progress` is called during a download; without it a terminal shows bars and anything else gets log lines.
    Raises `errors.NotFound` for an unknown profile and `errors.StartupError` with what to change.
    """
    from imagegen_server.models.factory import load_runner as load  # noqa: PLC0415 - a façade's name

    return load(profile_name, options, on_progress)


def model_profiles() -> tuple[ModelProfile, ...]:
    """Returns every profile, without schedulers: which of them load is known of a loaded model only."""
    return tuple(bare_profile(name) for name in PROFILE_NAMES)


def diagnose(profile_name: str, options: ModelOptions | None = None) -> DoctorReport:
    """Returns what would be loaded where, and what to change; loads nothing. See `doctor.report`."""
    from imagegen_server.models.doctor import report  # noqa: PLC0415 - as above

    return report(profile_name, options or ModelOptions())


def tune(profile_name: str, options: ModelOptions, *, say: Callable[[str], None]) -> Path:
    """Measures how a profile's models run fastest on the device, writes that to a file and returns its path.

    The file is the one that `options.tuning` names, else the one in the cache that a server looks for. `say` hears of
    each figure. Raises `errors.StartupError` if the models cannot be loaded, have no device to measure (`fake`), or the
    file cannot be written.
    """
    from imagegen_server.models.factory import write_tuning  # noqa: PLC0415 - as above

    return write_tuning(profile_name, options, say)


def allocator_stats() -> Mapping[str, int]:
    """Returns figures of torch's CUDA allocator in bytes and counts; empty without a GPU."""
    from imagegen_server.models.device import allocator_stats as stats  # noqa: PLC0415 - heavy

    return stats()
