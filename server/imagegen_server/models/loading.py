"""Loads a pair of model directories with diffusers' own pipelines; what both halves use is loaded once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegen_server.core import DeviceInfo, ModelProfile, Precision, Residency, Size
from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models import device as devices
from imagegen_server.models import fp8
from imagegen_server.models.memory.parts import activations_of, directory_parts
from imagegen_server.models.memory.plan import Activations, MemoryRequest, Part, PlannedMemory, plan_memory
from imagegen_server.models.memory.residency import Swapper
from imagegen_server.models.pair import LoadedPair, always_resident, parts_of
from imagegen_server.models.precision import (
    PrecisionChoice,
    apply_matmul_mode,
    choose,
    item_bytes,
    torch_dtype,
    vae_precision,
)
from imagegen_server.models.sources.architecture import SHARED_MODULES
from imagegen_server.models.sources.model_directory import check_directory, variant_of

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

SHARED = (*SHARED_MODULES, "tokenizer_2")
"""What the refiner takes over from the base, so that its own files of these are neither fetched nor read."""

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "tokenizers", "safetensors", "numpy")
"""Packages that decide the pixels."""


@dataclass(kw_only=True, frozen=True, slots=True)
class LoadOptions:
    """What the operator chose about the device."""

    device: str = devices.AUTO
    """auto, cpu, cuda or cuda:N."""
    precision: str = "auto"
    """auto or a `core.Precision`."""
    vram_budget: int | None = None
    """Most bytes the models may take of the device; None is no limit."""
    row_budget: int | None = None
    """Most rows of a batch of the native size, which the memory plan reckons with; None is the profile's."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Site:
    """The device, and the arithmetic that suits it."""

    device: torch.device
    info: DeviceInfo
    free_bytes: int
    choice: PrecisionChoice


@dataclass(kw_only=True, frozen=True, slots=True)
class Ground:
    """What was decided before loading."""

    site: Site
    memory: PlannedMemory


def survey(options: LoadOptions) -> Site:
    """Returns the device, which becomes the calling thread's own, and the precision.

    Raises `errors.StartupError` if either cannot be had.
    """
    device = devices.resolve(options.device)
    devices.select(device, options.vram_budget)
    info = devices.describe(device)
    choice = choose(options.precision, info, capability=devices.compute_capability(device))
    return Site(device=device, info=info, free_bytes=devices.free_bytes(device), choice=choice)


def memory_request(
    profile: ModelProfile, parts: tuple[Part, ...], activations: Activations, site: Site, options: LoadOptions
) -> MemoryRequest:
    """Returns what to ask of `plan_memory` for batches of the profile's native size."""
    return MemoryRequest(
        parts=parts,
        activations=activations,
        native=Size(width=profile.defaults.width, height=profile.defaults.height),
        rows=options.row_budget or profile.row_budget,
        precision=site.choice,
        device_type=site.info.type,
        free_bytes=site.free_bytes,
        budget_bytes=options.vram_budget,
    )


def lay_ground(
    profile: ModelProfile, parts: tuple[Part, ...], activations: Activations, options: LoadOptions
) -> Ground:
    """Returns device, precision and memory plan. Raises `errors.StartupError` or its `DoesNotFit`."""
    site = survey(options)
    memory = plan_memory(memory_request(profile, parts, activations, site, options))
    return Ground(site=site, memory=memory)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps the libraries from drawing bars and from naming optional packages that are not needed here.

    For the time of the context; their settings are global.
    """
    from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415 - heavy
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415 - heavy

    libraries = (diffusers_logging, transformers_logging)
    enabled = [library for library in libraries if library.is_progress_bar_enabled()]
    import_log = logging.getLogger("transformers.utils.import_utils")
    import_log.addFilter(_names_no_torchvision)
    for library in enabled:
        library.disable_progress_bar()
    try:
        yield
    finally:
        import_log.removeFilter(_names_no_torchvision)
        for library in enabled:
            library.enable_progress_bar()


def load_pair(
    profile: ModelProfile, *, base: Path, refiner: Path | None, options: LoadOptions | None = None
) -> LoadedPair:
    """Returns the pair in two local directories in diffusers' format, placed on the device and ready.

    `refiner` is None to go without. Only safetensors are read and no code that comes with a model is run. Raises
    `errors.WeightsUnavailable` if a directory cannot be loaded, and what `lay_ground` raises.
    """
    check_directory(base)
    if refiner is not None:
        check_directory(refiner, exclude=SHARED)
    parts = directory_parts(base, refiner)
    ground = lay_ground(profile, parts, activations_of(profile.name), options or LoadOptions())
    apply_matmul_mode(ground.site.choice.precision)
    from imagegen_server.models.imports.meta import Uninitialised  # noqa: PLC0415 - heavy

    with quiet_libraries(), _failures_named(base, refiner), Uninitialised():
        first = _load_base(base, ground)
        second = None if refiner is None else _load_refiner(refiner, first, ground)
    return assemble(profile, first, second, ground)


def assemble(
    profile: ModelProfile,
    base: Any,
    refiner: Any | None,
    ground: Ground,
) -> LoadedPair:
    """Returns the pair with every module in eval mode and where the memory plan wants it.

    `base` and `refiner` are pipelines, of libraries without types; the profile gets the schedulers that load.
    """
    from imagegen_server.models.stages.schedulers import available_schedulers  # noqa: PLC0415 - heavy

    modules = parts_of(base, refiner)
    for module in modules.values():
        # without requires_grad_(False): torch multiplies in another order then, and the last bits are not diffusers'
        module.eval()
    for pipeline in (base, refiner):
        if pipeline is not None:
            pipeline.set_progress_bar_config(disable=True)
    layout = ground.memory.layout
    if ground.site.choice.precision is Precision.FP8:
        for pipeline in (base, refiner):
            if pipeline is not None:
                fp8.quantize(pipeline.unet.to(ground.site.device))
                pipeline.unet.to("cpu" if layout.groups else ground.site.device)
    if layout.residency is Residency.SWAP:
        activate = Swapper(layout, modules, ground.site.device).activate
    else:
        activate = always_resident
        for module in modules.values():
            module.to(ground.site.device)
    return LoadedPair(
        profile=replace(profile, schedulers=available_schedulers(base.scheduler.config)),
        base=base,
        refiner=refiner,
        device=ground.site.device,
        dtype=torch_dtype(ground.site.choice.precision),
        precision=ground.site.choice.precision,
        memory_plan=ground.memory.plan,
        device_info=ground.site.info,
        packages=package_versions(),
        activate=activate,
        layout=layout,
        most_rows=ground.memory.most_rows,
        smaller=ground.memory.smaller,
    )


def package_versions() -> Mapping[str, str]:
    """Returns the versions of `PACKAGES` that are installed."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _names_no_torchvision(record: logging.LogRecord) -> bool:
    """Drops transformers' advice on image processors, which no pipeline here has."""
    return "requires torchvision" not in record.getMessage()


def _load_base(directory: Path, ground: Ground) -> StableDiffusionXLPipeline:
    from diffusers import StableDiffusionXLPipeline  # noqa: PLC0415 - heavy

    return StableDiffusionXLPipeline.from_pretrained(directory, **_arguments(directory, ground))  # type: ignore[no-any-return]  # untyped library


def _load_refiner(directory: Path, base: StableDiffusionXLPipeline, ground: Ground) -> StableDiffusionXLImg2ImgPipeline:
    from diffusers import StableDiffusionXLImg2ImgPipeline  # noqa: PLC0415 - heavy

    shared = {name: getattr(base, name) for name in SHARED}
    arguments = _arguments(directory, ground, exclude=SHARED)
    return StableDiffusionXLImg2ImgPipeline.from_pretrained(directory, **arguments, **shared)  # type: ignore[no-any-return]  # untyped library


def _arguments(directory: Path, ground: Ground, *, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    precision = ground.site.choice.precision
    dtypes = {"default": torch_dtype(precision)}
    if "vae" not in exclude:
        upcast = any(part.force_upcast for part in directory_parts(directory, None))
        dtypes["vae"] = torch_dtype(vae_precision(precision, force_upcast=upcast))
    return {
        _dtype_argument(): dtypes,
        "variant": variant_of(directory, half=item_bytes(precision) == 2, exclude=exclude),
        "use_safetensors": True,
        "local_files_only": True,
        "add_watermarker": False,
    }


def _dtype_argument() -> str:
    """Returns what diffusers calls the dtype: `dtype` since 0.40, which deprecates `torch_dtype`."""
    major, minor = version("diffusers").split(".")[:2]
    return "dtype" if (int(major), int(minor)) >= (0, 40) else "torch_dtype"


@contextmanager
def _failures_named(base: Path, refiner: Path | None) -> Iterator[None]:
    """Turns what the libraries raise for files that do not fit their configuration into one error."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        where = f"{base}" if refiner is None else f"{base} or {refiner}"
        raise WeightsUnavailable(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
