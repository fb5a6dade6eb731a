"""From a profile's name and the operator's choices to a runner that is ready."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen_server import shapes
from imagegen_server.core import ModelProfile
from imagegen_server.errors import StartupError
from imagegen_server.garbage import collected_later
from imagegen_server.models import device, profiles
from imagegen_server.models.evaluation.tuning import Identity, Tuning, TuningFile, default_path, read
from imagegen_server.models.imports.exports import few_exports
from imagegen_server.models.imports.lazy import lazy_packages
from imagegen_server.models.imports.light import light_imports, without_distribution
from imagegen_server.models.imports.lookups import quick_lookups
from imagegen_server.models.loading import SHARED, LoadOptions, lay_ground, load_pair, quiet_libraries, survey
from imagegen_server.models.memory import parts
from imagegen_server.models.sources.hub import HubSettings, HubSource, Wanted, cached, fetch, parse_source
from imagegen_server.models.sources.model_directory import check_directory
from imagegen_server.models.synthetic import load_synthetic

if TYPE_CHECKING:
    from imagegen_server.models.fake.runner import FakeRunner
    from imagegen_server.models.pair import LoadedPair
    from imagegen_server.models.sdxl_runner import SDXLRunner


_log = logging.getLogger(__name__)

AUTO = "auto"
NO_TUNING = "none"


@dataclass(kw_only=True, frozen=True, slots=True)
class ModelOptions(LoadOptions):
    """What the operator chose about the model and the device."""

    refiner: bool = True
    """Whether the refiner is loaded."""
    base: str | None = None
    """Hub repository (`owner/name@revision`) or directory in place of the profile's; `sdxl` only."""
    refiner_source: str | None = None
    """The same for the refiner."""
    cache_dir: Path | None = None
    """Where downloads are kept; None is the hub's own default."""
    fake_script: str = ""
    """What the fake runner does; see `fake.script.parse_script`."""
    tuning: str = AUTO
    """A file that `imagegen-server tune` wrote; auto takes it from the cache if one fits, none runs without."""


def load_runner(profile_name: str, options: ModelOptions) -> SDXLRunner | FakeRunner:
    """Returns the runner of a profile, with everything loaded.

    During a download a terminal shows bars, and anything else gets log lines.

    Raises `errors.NotFound` for an unknown profile and `errors.StartupError` (DoesNotFit, WeightsUnavailable) with
    what to change.
    """
    profile = resolve_profile(profile_name, options)
    if profile.name == profiles.FAKE:
        from imagegen_server.models.fake.runner import SCHEDULERS, FakeRunner  # noqa: PLC0415 - one of several
        from imagegen_server.models.fake.script import parse_script  # noqa: PLC0415 - one of several

        timing = parse_script(options.fake_script)
        return FakeRunner(replace(profile, schedulers=SCHEDULERS), timing=timing, refiner=options.refiner)
    _check_directories(options)
    with ExitStack() as stack:
        with collected_later(), quick_lookups(), without_distribution():
            on_cpu = device.resolve(options.device).type == "cpu"  # where nothing is compiled
            stack.enter_context(light_imports(compiler=not on_cpu))
            stack.enter_context(lazy_packages())
            stack.enter_context(few_exports())
            stack.enter_context(quiet_libraries())
            from imagegen_server.models.sdxl_runner import SDXLRunner  # noqa: PLC0415 - heavy

        pair = load_pair_of(profile, options)
        runner = SDXLRunner(pair, chosen_tuning(pair, options))
    runner.prepare(cache_directory(options))
    return runner


def _check_directories(options: ModelOptions) -> None:
    """Raises `errors.WeightsUnavailable` for a directory that must not be loaded, before a library is imported."""
    chosen = [(options.base, ()), (options.refiner_source if options.refiner else None, SHARED)]
    for text, exclude in chosen:
        source = None if text is None else parse_source(text)
        if isinstance(source, Path):
            check_directory(source, exclude=exclude)


def load_pair_of(profile: ModelProfile, options: ModelOptions) -> LoadedPair:
    """Returns the models of a profile that has some. Raises what `load_runner` raises."""
    match profile.name:
        case profiles.SHAPES:
            refiner = shapes.REFINER if options.refiner else None
            return load_pair(profile, base=shapes.BASE, refiner=refiner, options=options)
        case profiles.SYNTHETIC_SDXL:
            return load_synthetic(profile, options=options, refiner=options.refiner)
        case profiles.SDXL:
            return _load_sdxl(profile, options)
    raise ValueError(f"{profile.name} has no models to load")


def identity_of(pair: LoadedPair) -> Identity:
    """Returns what a tuning of the pair holds for: on a CPU, for as many threads as compute."""
    import torch  # noqa: PLC0415 - heavy

    device = pair.device_info.name
    return Identity(
        device=f"{device}, {torch.get_num_threads()} threads" if pair.device.type == "cpu" else device,
        model=pair.profile.name,
        precision=pair.precision.value,
        torch=pair.packages["torch"],
        diffusers=pair.packages["diffusers"],
    )


def write_tuning(profile_name: str, options: ModelOptions, say: Callable[[str], None]) -> Path:
    """Measures how a profile's models run fastest on the device, writes that to a file and returns its path.

    The file is the one that `options.tuning` names, else the one in the cache that a server looks for. `say` hears of
    each figure. Raises `errors.StartupError` if the models cannot be loaded, have no device to measure (`fake`), or the
    file cannot be written.
    """
    profile = resolve_profile(profile_name, options)
    if profile.name == profiles.FAKE:
        raise StartupError(f"{profiles.FAKE} has no models to tune")
    with quiet_libraries():
        from imagegen_server.models.evaluation.tune import tune  # noqa: PLC0415 - heavy

        pair = load_pair_of(profile, options)
        identity = identity_of(pair)
        say(f"tuning {identity.model} in {identity.precision} on {identity.device}")
        tuning, figures = tune(pair, cache=cache_directory(options), say=say)
    named = options.tuning not in (AUTO, NO_TUNING)
    path = Path(options.tuning) if named else default_path(cache_directory(options), identity)
    try:
        TuningFile(identity=identity, tuning=tuning, measured=figures).write(path)
    except OSError as error:
        raise StartupError(f"the tuning cannot be written to {path}: {error.strerror}") from error
    return path


def cache_directory(options: ModelOptions) -> Path:
    """Returns where tunings and compiled code are kept: `--cache-dir`, else XDG's cache directory."""
    base = options.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "imagegen"


def chosen_tuning(pair: LoadedPair, options: ModelOptions) -> Tuning | None:
    """Returns the tuning to run with, None for the usual way.

    One from the cache is left out if it is of other versions or cannot be read. Raises `errors.StartupError` for a
    named file that cannot be read or is of another device, model, precision or version.
    """
    if options.tuning == NO_TUNING:
        return None
    identity = identity_of(pair)
    named = options.tuning != AUTO
    path = Path(options.tuning) if named else default_path(cache_directory(options), identity)
    if not named and not path.exists():
        return None
    try:
        found = read(path)
        if different := identity.differences(found.identity):
            raise StartupError(f"the tuning {path} is for something else: its {', its '.join(different)}")
    except StartupError as error:
        if named:
            raise
        _log.warning("%s; going on without", error)
        return None
    return found.tuning


def resolve_profile(profile_name: str, options: ModelOptions) -> ModelProfile:
    """Returns the profile (without schedulers) with the sources that will be loaded.

    Raises `errors.StartupError` if sources are given to a profile whose weights are made here.
    """
    profile = profiles.bare_profile(profile_name)
    if profile.name != profiles.SDXL and (options.base or options.refiner_source):
        raise StartupError(f"the weights of {profile.name} are built in; --model {profiles.SDXL} loads other sources")
    return replace(
        profile,
        base_source=options.base or profile.base_source,
        refiner_source=options.refiner_source or profile.refiner_source,
    )


def hub_wanted(*, half: bool) -> tuple[Wanted, Wanted]:
    """Returns what to fetch of the base's and of the refiner's repository."""
    return Wanted(half=half), Wanted(half=half, exclude=SHARED)


def _load_sdxl(profile: ModelProfile, options: ModelOptions) -> LoadedPair:
    settings = HubSettings(cache_dir=options.cache_dir)
    sources = [parse_source(profile.base_source)]
    if options.refiner:
        sources.append(parse_source(profile.refiner_source))
    wanted = hub_wanted(half=_check_before_download(profile, options, sources, settings))
    directories = [
        source if isinstance(source, Path) else fetch(source, want, settings)
        for source, want in zip(sources, wanted, strict=False)
    ]
    refiner = directories[1] if options.refiner else None
    return load_pair(profile, base=directories[0], refiner=refiner, options=options)


def _check_before_download(
    profile: ModelProfile, options: ModelOptions, sources: list[Path | HubSource], settings: HubSettings
) -> bool:
    """Returns whether half precision will be loaded; refuses a plan that cannot fit before gigabytes are fetched.

    Until the files are here the published architecture stands for them.
    """
    site = survey(options)
    known = {profiles.SDXL_BASE_SOURCE, profiles.SDXL_REFINER_SOURCE}
    absent = [
        source
        for source, want in zip(sources, hub_wanted(half=site.half), strict=False)
        if isinstance(source, HubSource) and str(source) in known and cached(source, want, settings) is None
    ]
    if absent:
        base, refiner = parts.published_pair(profile.name)
        pair = parts.architecture_parts(base, refiner if options.refiner else None)
        lay_ground(profile, pair, parts.activations_of(profile.name), site, options)
    return site.half
