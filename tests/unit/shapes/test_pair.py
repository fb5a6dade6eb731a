"""The shipped pair: its files, and what stock diffusers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from imagegen_server import shapes
from imagegen_server.models.profiles import bare_profile
from imagegen_server.shapes import judge, prompts
from imagegen_server.shapes.prompts import Wanted

pytestmark = pytest.mark.slow

PROMPT = "a red circle on a blue background"
DEFAULTS = bare_profile("shapes").defaults
Stock = tuple[Any, Any]
"""Pipelines of diffusers, which has no types for what they hold."""
WEIGHTS = sorted(shapes.DIRECTORY.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def stock() -> Stock:
    """Both halves as any user of diffusers loads them."""
    base = StableDiffusionXLPipeline.from_pretrained(shapes.BASE)
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(shapes.REFINER)
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    return base, refiner


def test_the_weights_are_small() -> None:
    """16 MB with the shared parts counted once, and little more with both copies."""
    once = {path.read_bytes(): path.stat().st_size for path in WEIGHTS}
    assert sum(once.values()) <= 16e6
    assert sum(path.stat().st_size for path in WEIGHTS) <= 18e6


def test_the_halves_share_text_encoder_2_its_tokenizer_and_the_vae() -> None:
    """The refiner's files of shared parts are the base's, byte for byte; its UNet is its own."""
    for component in ("text_encoder_2", "tokenizer_2", "vae"):
        files = sorted(path for path in (shapes.BASE / component).iterdir() if path.is_file())
        assert files
        for file in files:
            assert file.read_bytes() == (shapes.REFINER / component / file.name).read_bytes()
    unets = [load_file(half / "unet/diffusion_pytorch_model.safetensors") for half in (shapes.BASE, shapes.REFINER)]
    assert not unets[0]["conv_in.weight"].equal(unets[1]["conv_in.weight"])


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: str(path.relative_to(shapes.DIRECTORY)))
def test_weights_are_finite(path: Path) -> None:
    """In the precision in which they are shipped; the previews' projection is fp32."""
    for name, tensor in load_file(path).items():
        assert torch.isfinite(tensor).all(), name
        assert tensor.dtype is (torch.float32 if path == shapes.PREVIEW else torch.float16)


def test_text_encoders_have_sdxls_own_tensor_names() -> None:
    """So programs of any age that read SDXL's files read these."""
    for component in ("text_encoder", "text_encoder_2"):
        names = load_file(shapes.BASE / component / "model.safetensors").keys()
        assert all(name.startswith(("text_model.", "text_projection.")) for name in names)


def test_stock_diffusers_loads_both_halves(stock: Stock) -> None:
    """Plain from_pretrained gives pipelines with SDXL's conventions in both."""
    base, refiner = stock
    assert base.text_encoder.config.vocab_size == len(base.tokenizer)
    assert base.text_encoder.config.eos_token_id == base.tokenizer.eos_token_id
    assert (refiner.text_encoder, refiner.tokenizer) == (None, None)
    assert base.config.force_zeros_for_empty_prompt
    assert not refiner.config.force_zeros_for_empty_prompt
    assert refiner.config.requires_aesthetics_score
    assert base.vae_scale_factor == refiner.vae_scale_factor == 8
    assert base.default_sample_size * base.vae_scale_factor == 128
    assert base.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_stock_diffusers_draws_what_it_is_told(stock: Stock, seed: int) -> None:
    """With nothing of ours between the prompt and the pixels."""
    base, refiner = stock
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "guidance_scale": DEFAULTS.guidance_scale}
    latent = base(PROMPT, num_inference_steps=30, output_type="latent", **options).images
    image = refiner(PROMPT, image=latent, strength=0.3, num_inference_steps=100, output_type="np", **options).images[0]
    request = prompts.request_for("blue", Wanted(colour="red", shape="circle"))
    assert judge.judge(judge.read((image * 255).round().astype(np.uint8)), request).right


def test_the_card_says_what_was_measured() -> None:
    """Every figure that was measured, and no other accuracy than that."""
    card = (shapes.DIRECTORY / "README.md").read_text(encoding="utf-8")
    figures = json.loads((shapes.DIRECTORY / "accuracy.json").read_text(encoding="utf-8"))
    for name, figure in figures.items():
        assert f"| {name} | {figure['share']:.1%} | {figure['of']} |" in card
    assert f"guidance {DEFAULTS.guidance_scale:g}" in card
