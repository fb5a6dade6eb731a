"""Where the GPU measurements run: a GPU with Stable Diffusion XL's architecture, or a rehearsal on a CPU.

    python -m pytest tests/gpu                                a GPU; skipped where there is none
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
from imagegen_server.models.architecture import (
    SDXL_BASE,
    SDXL_REFINER,
    SHAPES_BASE,
    SHAPES_REFINER,
    Architecture,
)

if TYPE_CHECKING:
    from imagegen_server.models.pair import LoadedPair
    from imagegen_server.models.sdxl_runner import SDXLRunner

VARIABLE: Final = "IMAGEGEN_GPU_DEVICE"


@dataclass(kw_only=True, frozen=True, slots=True)
class Site:
    """The device and how much is asked of it."""

    device: str
    """cuda or cpu."""
    profile: str
    architectures: tuple[Architecture, Architecture]
    """Base and refiner."""
    half: Precision
    """The half precision that the device computes fast."""
    precisions: tuple[Precision, ...]
    """Those whose stages are timed."""
    sides: tuple[int, ...]
    """Pixels; the last is the native size."""
    rows: tuple[int, ...]
    steps: tuple[int, int]
    """Base and refiner steps of a whole generation."""
    timed_steps: int
    """Evaluations that are timed for each size and row count, after two that are not."""
    matmul: int
    """Side of the square matrices that the roof is measured with."""

    @property
    def native(self) -> int:
        """Pixels of the native size."""
        return self.sides[-1]

    @property
    def has_own_memory(self) -> bool:
        """Whether device memory is measured, can be filled, and is apart from the host's."""
        return self.device == "cuda"


GPU: Final = Site(
    device="cuda",
    profile="synthetic-sdxl",
    architectures=(SDXL_BASE, SDXL_REFINER),
    half=Precision.FP16,
    precisions=(Precision.FP16, Precision.BF16, Precision.TF32),
    sides=(512, 768, 1024),
    rows=(2, 4, 8, 16),
    steps=(50, 30),
    timed_steps=5,
    matmul=8192,
)
REHEARSAL: Final = Site(
    device="cpu",
    profile="shapes",
    architectures=(SHAPES_BASE, SHAPES_REFINER),
    half=Precision.BF16,
    precisions=(Precision.FP32, Precision.BF16),
    sides=(64, 128),
    rows=(2, 4),
    steps=(4, 2),
    timed_steps=2,
    matmul=512,
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


def load(site: Site, precision: Precision, *, budget: int | None = None) -> LoadedPair:
    """Returns a pair with random weights, on the device; `budget` is the most memory it may take, in bytes."""
    from imagegen_server.models.loading import LoadOptions
    from imagegen_server.models.profiles import bare_profile
    from imagegen_server.models.synthetic import load_synthetic

    options = LoadOptions(device=site.device, precision=precision.value, vram_budget=budget)
    return load_synthetic(bare_profile(site.profile), options=options, architectures=site.architectures)


def load_or_skip(site: Site, precision: Precision) -> LoadedPair:
    """Returns a pair, or skips the test if the device is too small for it."""
    import pytest

    from imagegen_server.errors import DoesNotFit

    try:
        return load(site, precision)
    except DoesNotFit as error:
        pytest.skip(str(error))


@contextmanager
def running(pair: LoadedPair) -> Iterator[SDXLRunner]:
    """Gives the pair's runner and frees the device afterwards."""
    from imagegen_server.models.sdxl_runner import SDXLRunner

    runner = SDXLRunner(pair)
    try:
        yield runner
    finally:
        runner.close()


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
