"""`make shapes` in miniature: every stage runs, and what it writes is a pair that stock diffusers loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from imagegen_server import shapes
from imagegen_server.models.stages.previews import load_projection
from imagegen_server.shapes.train import __main__ as train
from imagegen_server.shapes.train import files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair after a step or two of each stage, in a directory that had nothing but configurations."""
    pair, work = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("work")
    place = train.Place(pair=pair, work=work, device="cpu", steps=dict.fromkeys(train.STEPS, 2), batches=1)
    with pytest.MonkeyPatch.context() as patch:
        for name, (side, _) in train.CORPORA.items():
            patch.setitem(train.CORPORA, name, (side, 32))
        files.prepare(place.pair)
        assert not list(place.pair.rglob("*.safetensors"))
        for stage in ("text", "vae", *train.CORPORA, "decoder", "refiner", "base"):
            train.run_stage(place, stage)
    return place.pair


def test_every_shipped_file_is_written(trained: Path) -> None:
    """Card and figures aside, which are measured."""
    measured = {"README.md", "accuracy.json"}

    def names(directory: Path) -> set[str]:
        found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
        return found - measured

    assert names(trained) == names(shapes.DIRECTORY)


def test_stock_diffusers_loads_what_was_trained(trained: Path) -> None:
    """And draws something finite with it; after two steps nobody knows what."""
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    base = StableDiffusionXLPipeline.from_pretrained(trained / "base")
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(trained / "refiner")
    generator = torch.Generator().manual_seed(1)
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    latent = base("a red circle", num_inference_steps=2, generator=generator, output_type="latent").images
    image = refiner("a red circle", image=latent, num_inference_steps=7, generator=generator, output_type="pt").images
    assert image.shape == (1, 3, 128, 128)
    assert torch.isfinite(image).all()
    assert base.vae.config.scaling_factor != 0.13025


def test_the_projection_is_fitted(trained: Path) -> None:
    """A preview of 64x64 for latents of 16x16."""
    picture = load_projection(trained / shapes.PREVIEW.name)(np.zeros((4, 16, 16), dtype=np.float32))
    assert (picture.width, picture.height) == (64, 64)
