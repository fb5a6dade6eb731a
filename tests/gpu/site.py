"""Where the GPU measurements run: a GPU with Stable Diffusion XL's architecture, or a rehearsal on a CPU.

    python -m pytest tests/gpu                                a GPU; skipped where there is none
    IMAGEGEN_GPU_WHOLE=1 python -m pytest tests/gpu           tunes with whole compiled UNets too: minutes more
    IMAGEGEN_GPU_DEVICE=cpu python -m pytest tests/gpu        the same code with the embedded pair's architecture

The rehearsal shows that the code runs. Its figures mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from imagegen_server.core import Precision
from imagegen_server.models.sources.architecture import (
    SDXL_BASE,
    SDXL_REFINER,
    SHAPES_BASE,
    SHAPES_REFINER,
    Architecture,
)

if TYPE_CHECKING:
    from pathlib import Path

    from imagegen_server.core import MemoryPlan
    from imagegen_server.models.evaluation.tuning import Tuning
    from imagegen_server.models.pair import LoadedPair
    from imagegen_server.models.sdxl_runner import SDXLRunner

VARIABLE: Final = "IMAGEGEN_GPU_DEVICE"
WHOLE: Final = "IMAGEGEN_GPU_WHOLE"


@dataclass(kw_only=True, frozen=True, slots=True)
class Site:
    """The device and how much is asked of it."""

    device: str
    """cuda or cpu."""
    profile: str
    architectures: tuple[Architecture, Architecture]
    """Base and refiner."""
    half: Precision
    """The half precision that the device computes fast; fp32 where it emulates all of them."""
    precisions: tuple[Precision, ...]
    """The ladder, fp32 first."""
    sides: tuple[int, ...]
    """Pixels; the last is the native size."""
    rows: tuple[int, ...]
    steps: tuple[int, int]
    """Base and refiner steps of a whole generation."""
    timed_steps: int
    """Evaluations that are timed for each size and row count, after two that are not."""
    matmul: int
    """Side of the square matrices that the roof is measured with."""
    offline: tuple[int, int]
    """Images and steps of the offline shape."""
    arrivals: int
    """Requests that arrive at each load."""
    arrival_steps: tuple[int, int]
    """Least and most base steps of those."""

    @property
    def native(self) -> int:
        """Pixels of the native size."""
        return self.sides[-1]

    def ladder(self) -> tuple[Precision, ...]:
        """Returns the precisions of the ladder, fp8 among them where torchao and the device have it."""
        import torch

        from imagegen_server.models import fp8

        able = self.device == "cuda" and torch.cuda.get_device_capability() >= fp8.LEAST_CAPABILITY
        return (*self.precisions, Precision.FP8) if able and fp8.installed() else self.precisions

    @property
    def has_own_memory(self) -> bool:
        """Whether device memory is measured, can be filled, and is apart from the host's."""
        return self.device == "cuda"


GPU: Final = Site(
    device="cuda",
    profile="synthetic-sdxl",
    architectures=(SDXL_BASE, SDXL_REFINER),
    half=Precision.BF16,
    precisions=(Precision.FP32, Precision.TF32, Precision.BF16, Precision.FP16),
    sides=(512, 768, 1024),
    rows=(2, 4, 8, 16),
    steps=(50, 30),
    timed_steps=5,
    matmul=8192,
    offline=(8, 20),
    arrivals=16,
    arrival_steps=(8, 20),
)
REHEARSAL: Final = Site(
    device="cpu",
    profile="shapes",
    architectures=(SHAPES_BASE, SHAPES_REFINER),
    half=Precision.FP32,
    precisions=(Precision.FP32, Precision.BF16),
    sides=(32, 64),
    rows=(2,),
    steps=(4, 2),
    timed_steps=1,
    matmul=512,
    offline=(2, 2),
    arrivals=3,
    arrival_steps=(4, 6),
)


def chosen(environment: Mapping[str, str] = os.environ) -> Site:
    """Returns the site that the environment asks for. Raises ValueError for an unknown one."""
    name = environment.get(VARIABLE, "") or GPU.device
    for site in (GPU, REHEARSAL):
        if site.device == name:
            return site
    raise ValueError(f"{VARIABLE} is {GPU.device} or {REHEARSAL.device}, not {name!r}")


def why_not(site: Site) -> str:
    """Returns why the measurements cannot run here; empty if they can."""
    import torch

    if site.device == "cuda" and not torch.cuda.is_available():
        return f"no GPU; {VARIABLE}=cpu rehearses on the CPU"
    return ""


def whole(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether a tuning is to try whole compiled UNets."""
    return environment.get(WHOLE, "") == "1"


def load(site: Site, precision: Precision, *, budget: int | None = None, refiner: bool = True) -> LoadedPair:
    """Returns a pair with random weights, on the device; `budget` is the most memory it may take, in bytes."""
    from imagegen_server.models.loading import LoadOptions
    from imagegen_server.models.profiles import bare_profile
    from imagegen_server.models.synthetic import load_synthetic

    options = LoadOptions(device=site.device, precision=precision.value, vram_budget=budget)
    return load_synthetic(
        bare_profile(site.profile), options=options, refiner=refiner, architectures=site.architectures
    )


def load_or_skip(site: Site, precision: Precision, *, refiner: bool = True) -> LoadedPair:
    """Returns a pair, or skips the test if the device is too small for it."""
    import pytest

    from imagegen_server.errors import DoesNotFit

    try:
        return load(site, precision, refiner=refiner)
    except DoesNotFit as error:
        pytest.skip(str(error))


def cast(pair: LoadedPair, precision: Precision) -> LoadedPair:
    """Returns a copy of an fp32 pair with the same weights in another precision, beside it on the device."""
    import copy
    from dataclasses import replace

    from imagegen_server.models import fp8
    from imagegen_server.models.precision import apply_matmul_mode, torch_dtype, vae_precision

    apply_matmul_mode(precision)
    if torch_dtype(precision) is torch_dtype(pair.precision):
        return replace(pair, precision=precision)
    upcast = bool(pair.base.vae.config.force_upcast)
    dtypes = {"vae": torch_dtype(vae_precision(precision, force_upcast=upcast))}
    made: dict[int, Any] = {}

    def converted(pipeline: Any) -> Any:
        parts = dict(pipeline.components)
        for name, part in parts.items():
            if hasattr(part, "state_dict") and id(part) not in made:
                made[id(part)] = copy.deepcopy(part).to(dtypes.get(name, torch_dtype(precision)))
            parts[name] = made.get(id(part), part)
        again = type(pipeline)(**parts, **_flags(pipeline))
        again.set_progress_bar_config(disable=True)
        return again

    base, refiner = converted(pair.base), converted(pair.refiner)
    if precision is Precision.FP8:
        for pipeline in (base, refiner):
            fp8.quantize(pipeline.unet)
    return replace(pair, base=base, refiner=refiner, dtype=torch_dtype(precision), precision=precision)


def _flags(pipeline: Any) -> dict[str, Any]:
    """Returns the settings of a pipeline that are no components."""
    names = ("force_zeros_for_empty_prompt", "requires_aesthetics_score")
    return {name: pipeline.config[name] for name in names if name in pipeline.config} | {"add_watermarker": False}


def planned(site: Site, precision: Precision, *, budget: int | None = None) -> MemoryPlan:
    """Returns the memory plan of a precision, without loading anything."""
    from imagegen_server.models.loading import LoadOptions, lay_ground, survey
    from imagegen_server.models.memory.parts import activations_of, architecture_parts
    from imagegen_server.models.profiles import bare_profile

    options = LoadOptions(device=site.device, precision=precision.value, vram_budget=budget)
    parts = architecture_parts(*site.architectures)
    ground = lay_ground(bare_profile(site.profile), parts, activations_of(site.profile), survey(options), options)
    return ground.memory.plan


def prepared(pair: LoadedPair, tuning: Tuning | None = None, cache: Path | None = None) -> SDXLRunner:
    """Returns the pair's runner as a server has it before it serves."""
    from imagegen_server.models.sdxl_runner import SDXLRunner

    runner = SDXLRunner(pair, tuning)
    runner.prepare(cache)
    return runner


@contextmanager
def running(pair: LoadedPair, tuning: Tuning | None = None, cache: Path | None = None) -> Iterator[SDXLRunner]:
    """Gives the pair's runner and frees the device afterwards."""
    runner = prepared(pair, tuning, cache)
    try:
        yield runner
    finally:
        runner.close()


def memory(site: Site) -> int:
    """Returns the bytes that tensors take on the device, 0 for a CPU."""
    if site.device != "cuda":
        return 0
    import torch

    return int(torch.cuda.memory_allocated())


def synchronize(site: Site) -> None:
    """Waits until the device has done what it was asked for."""
    if site.device == "cuda":
        import torch

        torch.cuda.synchronize()


def asked(site: Site, **changes: Any) -> Any:
    """Returns a request for one image of the native size with all steps, with some fields changed."""
    from support.pairs import image_to_image, request

    steps, refiner_steps = site.steps
    usual = {
        "width": site.native,
        "height": site.native,
        "num_inference_steps": steps,
        "guidance_scale": 8.0,
        "refiner": image_to_image(num_inference_steps=refiner_steps, guidance_scale=8.0),
    }
    return request(**{**usual, **changes})
