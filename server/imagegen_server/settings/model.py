"""Settings of the model and the device that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from imagegen_server.settings.group import Group
from imagegen_server.settings.values import Bytes


class ModelSettings(Group):
    """The model"""

    model: Literal["shapes", "sdxl", "synthetic-sdxl", "fake"] = Field("shapes", description="Model profile.")
    base: str | None = Field(None, description="Hub id or directory of the base, instead of the profile's.")
    refiner: str | None = Field(None, description="Hub id or directory of the refiner, instead of the profile's.")
    use_refiner: bool = Field(True, description="Load the refiner; without it, refined images fall back to the base.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp8"] = Field(
        "auto",
        description="Arithmetic of the UNets; auto is fp32 from 20 GB of device memory on, else fp16; "
        "fp8 changes pixels.",
    )
    vram_budget: Bytes | None = Field(None, gt=0, description="Most device memory to use: 20GB, 18GiB, bytes.")
    cache_dir: Path | None = Field(
        None,
        description="Where downloads, tunings and compiled code are kept; the hub's and XDG's own places if unset.",
    )
    tuning: str = Field(
        "auto",
        min_length=1,
        description="File that `imagegen-server tune` wrote for this device; auto takes the one that it left in the "
        "cache, if any, none runs without.",
    )
    fake_script: str = Field("", description="What the fake model does: times and faults, as JSON.")
