"""The embedded pair as the runner takes it, and as a plain diffusers user has it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from imagegen_server import core
from imagegen_server.models.pair import LoadedPair
from support import generations

_PRECISIONS = {
    torch.float32: core.Precision.FP32,
    torch.bfloat16: core.Precision.BF16,
    torch.float16: core.Precision.FP16,
}

SCHEDULER = "EulerDiscreteScheduler"


@dataclasses.dataclass(frozen=True)
class Stock:
    """Both pipelines, loaded by diffusers alone."""

    base: Any
    refiner: Any
    base_scheduler_config: Any
    refiner_scheduler_config: Any


def load_stock(directory: Path, dtype: torch.dtype = torch.float32, *, force_upcast: bool = False) -> Stock:
    """Loads the pair as a diffusers user would, sharing what SDXL's stages share."""
    base_class: Any = StableDiffusionXLPipeline  # diffusers has no type information for what follows
    refiner_class: Any = StableDiffusionXLImg2ImgPipeline
    base = base_class.from_pretrained(directory / "base", add_watermarker=False)
    shared = {"text_encoder_2": base.text_encoder_2, "tokenizer_2": base.tokenizer_2, "vae": base.vae}
    refiner = refiner_class.from_pretrained(directory / "refiner", add_watermarker=False, **shared)
    base.vae.register_to_config(force_upcast=force_upcast)
    for pipeline in (base, refiner):
        if dtype is not torch.float32:
            pipeline.to(dtype)
        pipeline.set_progress_bar_config(disable=True)
    return Stock(
        base=base,
        refiner=refiner,
        base_scheduler_config=base.scheduler.config,
        refiner_scheduler_config=refiner.scheduler.config,
    )


def as_loaded(stock: Stock, *, with_refiner: bool = True) -> LoadedPair:
    """Returns the pair that a loader would make of the stock pipelines on a CPU."""
    dtype = stock.base.unet.dtype
    precision = _PRECISIONS[dtype]
    if precision is core.Precision.FP16 and stock.base.vae.config.force_upcast:
        stock.base.vae.to(torch.float32)
    profile = core.ModelProfile(
        name="shapes",
        description="the embedded pair",
        base_source="base",
        refiner_source="refiner" if with_refiner else "",
        limits=core.Limits(),
        defaults=core.Defaults(width=128, height=128),
        schedulers=(SCHEDULER,),
    )
    memory_plan = core.MemoryPlan(
        residency=core.Residency.BOTH,
        precision=precision,
        available_bytes=1 << 30,
        weights_bytes=1 << 25,
        working_bytes=1 << 20,
        components=(),
        explanation="everything fits",
    )
    return LoadedPair(
        profile=profile,
        base=stock.base,
        refiner=stock.refiner if with_refiner else None,
        device=torch.device("cpu"),
        dtype=dtype,
        precision=precision,
        memory_plan=memory_plan,
        device_info=core.DeviceInfo(type="cpu", name="cpu", driver="", total_memory_bytes=1 << 30),
        packages={"torch": torch.__version__},
    )


def scheduler_config(**changes: Any) -> dict[str, Any]:
    """Returns the configuration of a scheduler as a model carries it."""
    scheduler_class: Any = EulerDiscreteScheduler
    return dict(scheduler_class(**changes).config)


REFINER = dataclasses.replace(generations.REFINER, num_inference_steps=2, guidance_scale=5.0)

REQUEST = dataclasses.replace(
    generations.REQUEST,
    prompt="a large red circle on a blue background",
    num_inference_steps=4,
    guidance_scale=5.0,
    scheduler=SCHEDULER,
    refiner=REFINER,
)


def request(**changes: Any) -> core.GenerationRequest:
    """Returns a small request with some fields changed; `refiner=None` turns the refinement off."""
    if "refiner" in changes and changes["refiner"] is None:
        changes["use_refinement"] = False
    return dataclasses.replace(REQUEST, **changes)


def image_to_image(**changes: Any) -> core.RefinerSettings:
    """Returns refiner settings in image-to-image mode."""
    return dataclasses.replace(REFINER, **changes)


def ensemble(switch_at: float, **changes: Any) -> core.RefinerSettings:
    """Returns refiner settings in ensemble mode."""
    ensemble_only = {"mode": core.RefinerMode.ENSEMBLE, "num_inference_steps": None, "strength": None}
    return dataclasses.replace(REFINER, **{**ensemble_only, "switch_at": switch_at, **changes})
