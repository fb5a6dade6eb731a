"""Says what would be loaded where, and what to change, without loading anything."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from imagegen_server.core import DeviceInfo, ModelProfile, Precision, Residency
from imagegen_server.errors import DoesNotFit, ImageGenError
from imagegen_server.models.device import driver_version
from imagegen_server.models.factory import ModelOptions, hub_wanted, resolve_profile
from imagegen_server.models.loading import Site, memory_request, package_versions, survey
from imagegen_server.models.memory.explanation import gigabytes
from imagegen_server.models.memory.needs import MemoryRequest, Part, component_sizes
from imagegen_server.models.memory.parts import activations_of, architecture_parts, directory_parts, published_pair
from imagegen_server.models.memory.plan import PlannedMemory, plan_memory
from imagegen_server.models.precision import PrecisionChoice, item_bytes
from imagegen_server.models.profiles import FAKE, SDXL, SHAPES
from imagegen_server.models.sources.hub import HubSettings, HubSource, cached, parse_source
from imagegen_server.models.sources.model_directory import check_directory

UNUSED_BYTES = 10**9
"""More than the driver, this process's own CUDA context and an idle desktop take of a GPU's memory."""


@dataclass(kw_only=True, frozen=True, slots=True)
class DoctorReport:
    """What the doctor found."""

    text: str
    """Lines for people."""
    healthy: bool
    """Whether the server would start; weights that are yet to be downloaded are no obstacle."""

    @property
    def exit_status(self) -> int:
        """Exit status for a command line: 0 if healthy, else 1."""
        return 0 if self.healthy else 1


def diagnose(profile_name: str, options: ModelOptions | None = None) -> DoctorReport:
    """Returns device, driver, precision, weights, memory plan and versions, and what to change.

    Starts and downloads nothing; a GPU's context is created to ask for its free memory.
    """
    lines = [_line("model", profile_name)]
    try:
        for line in _findings(profile_name, options or ModelOptions()):
            lines.append(line)  # one by one: what was found before a problem stays
    except ImageGenError as error:
        return DoctorReport(text="\n".join([*lines, _line("problem", str(error))]), healthy=False)
    return DoctorReport(text="\n".join(lines), healthy=True)


def _findings(profile_name: str, options: ModelOptions) -> Iterator[str]:
    profile = resolve_profile(profile_name, options)
    versions = {"python": f"{platform.python_version()} ({sys.platform})", **package_versions()}
    yield _line("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    if profile.name == FAKE:
        yield _line("device", "none: the fake runner has no models")
        return
    site = survey(options)
    yield _line("device", _device(site))
    if shared := in_use(site.info, site.free_bytes):
        yield _line("warning", shared)
    yield _line("precision", f"{site.choice.precision}: {site.choice.reason}")
    directories = _directories(profile, options, site)
    for line in _weights(profile, directories):
        yield _line("weights", line)
    parts = _parts(profile, options, directories, site)
    yield _line("parts", _sizes(parts, site.choice.precision))
    request = memory_request(profile, parts, activations_of(profile.name), site, options)
    planned = plan_memory(request)
    yield _line("memory", f"{planned.plan.residency}: {planned.plan.explanation}")
    for advice in _advice(profile, request, planned, site):
        yield _line("advice", advice)


def _line(name: str, text: str) -> str:
    return f"{name:<11}{text}"


def _device(site: Site) -> str:
    memory = f"{gigabytes(site.info.total_memory_bytes)}, {gigabytes(site.free_bytes)} free"
    driver = f", driver {site.info.driver}" if site.info.driver else ""
    return f"{site.device}, {site.info.name}{driver}, {memory}"


def in_use(device: DeviceInfo, free_bytes: int) -> str | None:
    """Returns what to say if others use a GPU's memory, which is then missing in the plan; None if nobody does.

    `free_bytes` is what the driver says before anything is allocated.
    """
    used = device.total_memory_bytes - free_bytes
    if device.type != "cuda" or used <= UNUSED_BYTES:
        return None
    return (
        f"{gigabytes(used)} of the device are in use by other processes (nvidia-smi lists them), and the plan below is "
        "for what they leave; if one is the server in question, stop it first, or ask it for its plan: imagegen info"
    )


def _directories(profile: ModelProfile, options: ModelOptions, site: Site) -> tuple[Path | HubSource, ...]:
    """Returns where the halves of an `sdxl` pair are: directories (local or cached), or what is to be downloaded."""
    if profile.name != SDXL:
        return ()
    sources = (profile.base_source, profile.refiner_source) if options.refiner else (profile.base_source,)
    settings = HubSettings(cache_dir=options.cache_dir)
    found: list[Path | HubSource] = []
    for text, wanted in zip(sources, hub_wanted(half=site.half), strict=False):
        source = parse_source(text)
        place = source if isinstance(source, Path) else cached(source, wanted, settings) or source
        if isinstance(place, Path):
            check_directory(place, exclude=wanted.exclude, half=wanted.half)
        found.append(place)
    return tuple(found)


def _weights(profile: ModelProfile, directories: tuple[Path | HubSource, ...]) -> Iterator[str]:
    if not directories:
        made = "shipped in the package" if profile.name == SHAPES else "random, made at the start"
        yield f"{profile.base_source}: {made}"
    for place in directories:
        if isinstance(place, Path):
            yield f"{place}: complete"
        else:
            yield f"{place}: not cached, downloaded at the first start"


def _parts(
    profile: ModelProfile, options: ModelOptions, directories: tuple[Path | HubSource, ...], site: Site
) -> tuple[Part, ...]:
    """Returns the parts from the files if both halves are here, else from the published architecture."""
    local = [place for place in directories if isinstance(place, Path)]
    if directories and len(local) == len(directories):
        return directory_parts(local[0], local[1] if options.refiner else None, half=site.half)
    base, refiner = published_pair(profile.name)
    return architecture_parts(base, refiner if options.refiner else None)


def _sizes(parts: tuple[Part, ...], precision: Precision) -> str:
    return ", ".join(f"{size.name} {gigabytes(size.bytes)}" for size in component_sizes(parts, precision))


def _advice(profile: ModelProfile, request: MemoryRequest, planned: PlannedMemory, site: Site) -> Iterator[str]:
    if site.info.type == "cpu":
        if driver := driver_version():
            yield f"an NVIDIA driver ({driver}) is here but PyTorch does not use it: install PyTorch built for CUDA"
        if profile.defaults.width > 512:
            yield f"{profile.name} takes many minutes for an image on a CPU; use a GPU, or --model shapes to try it out"
    if planned.plan.residency is Residency.SWAP:
        yield from _against_swapping(request)
    if site.info.type == "cuda" and site.choice.precision is Precision.FP32:
        yield "precision tf32 computes several times faster than fp32 on GPUs from compute capability 8.0 on"


def _against_swapping(request: MemoryRequest) -> Iterator[str]:
    half = replace(request, precision=PrecisionChoice(precision=Precision.FP16, reason="it was tried"))
    if item_bytes(request.precision.precision) > 2 and _residency(half) is Residency.BOTH:
        yield "precision fp16 would keep both models on the device"
    unlimited = replace(request, budget_bytes=None)
    if request.budget_bytes is not None and _residency(unlimited) is Residency.BOTH:
        yield "without the VRAM budget both models would stay on the device"


def _residency(request: MemoryRequest) -> Residency | None:
    try:
        return plan_memory(request).plan.residency
    except DoesNotFit:
        return None
