"""Loads a pair of model directories with diffusers' own pipelines; what both halves use is loaded once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegen_server.core import DeviceInfo, ModelProfile, Precision, Residency, Size
from imagegen_server.errors import StartupError
from imagegen_server.models import device as devices
from imagegen_server.models import fp8
from imagegen_server.models.component import failures_named, load_component
from imagegen_server.models.memory.needs import Activations, MemoryRequest, Part
from imagegen_server.models.memory.parts import activations_of, directory_parts
from imagegen_server.models.memory.plan import PlannedMemory, plan_memory
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
from imagegen_server.models.sources.architecture import MODULE_NAMES, SHARED_MODULES
from imagegen_server.models.sources.model_directory import check_directory, variants_of

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

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

    @property
    def half(self) -> bool:
        """Whether the weights are loaded in half precision."""
        return item_bytes(self.choice.precision) == 2


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
    profile: ModelProfile, parts: tuple[Part, ...], activations: Activations, site: Site, options: LoadOptions
) -> Ground:
    """Returns what is decided before loading. Raises `errors.DoesNotFit`."""
    return Ground(site=site, memory=plan_memory(memory_request(profile, parts, activations, site, options)))


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


def load_pair(profile: ModelProfile, *, base: Path, refiner: Path | None, options: LoadOptions) -> LoadedPair:
    """Returns the pair in two local directories in diffusers' format, placed on the device and ready.

    `refiner` is None to go without. Only safetensors are read and no code that comes with a model is run. Raises
    `errors.WeightsUnavailable` if a directory cannot be loaded, and what `survey`, `lay_ground` and
    `assemble` raise.
    """
    site = survey(options)
    check_directory(base, half=site.half)
    if refiner is not None:
        check_directory(refiner, exclude=SHARED, half=site.half)
    parts = directory_parts(base, refiner, half=site.half)
    ground = lay_ground(profile, parts, activations_of(profile.name), site, options)
    apply_matmul_mode(site.choice.precision)
    from imagegen_server.models.imports.meta import Uninitialised  # noqa: PLC0415 - heavy

    dtypes = _dtypes(parts, site.choice.precision)
    with quiet_libraries(), Uninitialised():
        from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline  # noqa: PLC0415 - heavy

        first = _load_pipeline(StableDiffusionXLPipeline, base, site, dtypes, {})
        second = None
        if refiner is not None:
            shared = {name: getattr(first, name) for name in SHARED}
            second = _load_pipeline(StableDiffusionXLImg2ImgPipeline, refiner, site, dtypes, shared)
    return assemble(profile, first, second, ground)


def assemble(
    profile: ModelProfile,
    base: Any,
    refiner: Any | None,
    ground: Ground,
) -> LoadedPair:
    """Returns the pair with every module in eval mode and where the memory plan wants it.

    `base` and `refiner` are pipelines, of libraries without types; the profile gets the schedulers that run. Raises
    `errors.StartupError` if there are none.
    """
    profile = _with_schedulers(profile, base, refiner)
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
        profile=profile,
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


def _dtypes(parts: Iterable[Part], precision: Precision) -> dict[str, torch.dtype]:
    """Returns what each component with weights is stored in."""
    upcast = any(part.force_upcast for part in parts)
    vae = torch_dtype(vae_precision(precision, force_upcast=upcast))
    return {**dict.fromkeys(MODULE_NAMES, torch_dtype(precision)), "vae": vae}


def _load_pipeline(
    pipeline: Any, directory: Path, site: Site, dtypes: Mapping[str, torch.dtype], shared: Mapping[str, Any]
) -> Any:
    """Returns a pipeline of the class from a directory, with what it shares instead of its own."""
    modules = {
        name: load_component(directory, name, dtype=dtypes[name], variant=variant)
        for name, variant in variants_of(directory, half=site.half, exclude=tuple(shared)).items()
    }
    with failures_named(directory):
        return pipeline.from_pretrained(directory, **modules, **shared, local_files_only=True, add_watermarker=False)


def _with_schedulers(profile: ModelProfile, base: Any, refiner: Any | None) -> ModelProfile:
    """Returns the profile with the schedulers that run in both stages, and a default that is one of them."""
    from imagegen_server.models.stages.schedulers import available_schedulers  # noqa: PLC0415 - heavy

    pipelines = [base] if refiner is None else [base, refiner]
    offered = available_schedulers(*(pipeline.scheduler.config for pipeline in pipelines))
    if not offered:
        own = " and ".join(type(pipeline.scheduler).__name__ for pipeline in pipelines)
        alone = "; the base runs alone: --no-use-refiner" if available_schedulers(base.scheduler.config) else ""
        raise StartupError(f"no scheduler of diffusers runs with the configuration of the model ({own}){alone}")
    default = profile.defaults.scheduler
    if default not in offered:
        own = type(base.scheduler).__name__
        chosen = own if own in offered else offered[0]
        _log.warning("%s does not run with this model; the default scheduler is %s", default, chosen)
        default = chosen
    return replace(profile, schedulers=offered, defaults=replace(profile.defaults, scheduler=default))
