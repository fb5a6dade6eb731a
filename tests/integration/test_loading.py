"""Loading a pair from directories, and making one from configurations."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging

from imagegen_server import shapes
from imagegen_server.core import Precision, Residency, Stage
from imagegen_server.errors import DoesNotFit, StartupError, WeightsUnavailable
from imagegen_server.models import ModelOptions, load_runner
from imagegen_server.models.loading import LoadOptions, load_pair
from imagegen_server.models.memory.needs import SHAPES_ACTIVATIONS
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.profiles import bare_profile
from imagegen_server.models.sdxl_runner import SDXLRunner
from imagegen_server.models.sources.architecture import SHAPES_BASE, SHAPES_REFINER
from imagegen_server.models.synthetic import load_synthetic

PROFILE = bare_profile("shapes")
CPU = LoadOptions(device="cpu")
PROMPT = "a small green star on a white background"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pair's files."""
    place = tmp_path_factory.mktemp("pair")
    shutil.copytree(shapes.DIRECTORY, place, dirs_exist_ok=True)
    return place


@pytest.fixture(scope="module")
def pair(directory: Path) -> LoadedPair:
    """The embedded pair, loaded."""
    return load_pair(PROFILE, base=directory / "base", refiner=directory / "refiner", options=CPU)


def picture(base: Any, refiner: Any) -> torch.Tensor:
    """A generation through both pipelines."""
    generator = torch.Generator().manual_seed(5)
    latent = base(PROMPT, num_inference_steps=4, generator=generator, output_type="latent").images
    drawn: torch.Tensor = refiner(
        PROMPT, image=latent, num_inference_steps=8, generator=generator, output_type="pt"
    ).images
    return drawn


def test_shared_parts_are_loaded_once(pair: LoadedPair) -> None:
    """Text encoder 2, its tokenizer and the VAE are the same objects in both pipelines."""
    assert pair.refiner is not None
    assert pair.base.vae is pair.refiner.vae
    assert pair.base.text_encoder_2 is pair.refiner.text_encoder_2
    assert pair.base.tokenizer_2 is pair.refiner.tokenizer_2
    assert pair.base.unet is not pair.refiner.unet


def test_the_loaded_pair_draws_what_stock_diffusers_draws(pair: LoadedPair, directory: Path) -> None:
    """Bit for bit, with the same files and the same generator."""
    base = StableDiffusionXLPipeline.from_pretrained(directory / "base")
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(directory / "refiner")
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    assert torch.equal(picture(pair.base, pair.refiner), picture(base, refiner))


def test_every_module_only_infers(pair: LoadedPair) -> None:
    """Eval mode, no watermark. Parameters stay as diffusers loads them; gradients are off where models are called."""
    assert pair.refiner is not None
    for pipeline in (pair.base, pair.refiner):
        assert pipeline.watermark is None
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder_2):
            assert not module.training


def test_the_description_is_complete(pair: LoadedPair) -> None:
    """Schedulers that load, versions, sizes and the device."""
    assert "EulerDiscreteScheduler" in pair.profile.schedulers
    assert pair.packages["torch"] == torch.__version__
    assert pair.device_info.type == "cpu"
    assert {size.name for size in pair.memory_plan.components} == {
        "base.unet",
        "refiner.unet",
        "text_encoder",
        "text_encoder_2",
        "vae",
    }
    assert pair.memory_plan.residency is Residency.BOTH
    pair.activate(Stage.BASE)


def test_without_the_refiner_only_the_base_is_loaded(directory: Path) -> None:
    """Four components, no refiner."""
    alone = load_pair(PROFILE, base=directory / "base", refiner=None, options=CPU)
    assert alone.refiner is None
    assert len(alone.memory_plan.components) == 4


def test_bf16_is_loaded_as_bf16_throughout(directory: Path) -> None:
    """Its range is fp32's, so the VAE needs no exception."""
    options = LoadOptions(device="cpu", precision="bf16")
    loaded = load_pair(PROFILE, base=directory / "base", refiner=directory / "refiner", options=options)
    assert loaded.refiner is not None
    assert (loaded.precision, loaded.dtype) == (Precision.BF16, torch.bfloat16)
    modules = (loaded.base.unet, loaded.base.vae, loaded.base.text_encoder, loaded.refiner.unet)
    assert {module.dtype for module in modules} == {torch.bfloat16}
    assert picture(loaded.base, loaded.refiner).isfinite().all()


def test_the_refiners_own_copies_of_shared_parts_are_not_needed(directory: Path, tmp_path: Path) -> None:
    """A refiner directory without them loads, as a download leaves them out."""
    slim = tmp_path / "refiner"
    shutil.copytree(directory / "refiner", slim)
    for name in ("text_encoder_2", "tokenizer_2", "vae"):
        shutil.rmtree(slim / name)
    loaded = load_pair(PROFILE, base=directory / "base", refiner=slim, options=CPU)
    assert loaded.refiner is not None
    assert loaded.refiner.vae is loaded.base.vae


def test_fp16_files_are_widened_where_nothing_else_is_there(directory: Path, tmp_path: Path) -> None:
    """A directory of the fp16 variant loads in fp32."""
    half = tmp_path / "half"
    shutil.copytree(directory / "base", half)
    for file in half.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    loaded = load_pair(PROFILE, base=half, refiner=None, options=CPU)
    assert loaded.base.unet.dtype is torch.float32


def test_weights_that_do_not_fit_their_configuration_are_named(directory: Path, tmp_path: Path) -> None:
    """A file of another model ends in an error with the directory, not in a half-random model."""
    mixed = tmp_path / "mixed"
    shutil.copytree(directory / "base", mixed)
    name = "unet/diffusion_pytorch_model.safetensors"
    (mixed / name).unlink()
    shutil.copyfile(directory / "refiner" / name, mixed / name)
    with pytest.raises(WeightsUnavailable, match="mixed cannot be loaded"):
        load_pair(PROFILE, base=mixed, refiner=None, options=CPU)


def test_what_does_not_fit_is_refused_before_loading(directory: Path) -> None:
    """With the numbers."""
    options = LoadOptions(device="cpu", vram_budget=10**7)
    with pytest.raises(DoesNotFit, match=r"10\.0 MB are allowed by the VRAM budget"):
        load_pair(PROFILE, base=directory / "base", refiner=None, options=options)


def test_loading_draws_no_bars_and_leaves_the_libraries_setting(
    directory: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing on the terminal, no warning in the log, and bars as they were."""
    enabled = diffusers_logging.is_progress_bar_enabled()
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        load_pair(PROFILE, base=directory / "base", refiner=directory / "refiner", options=CPU)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert diffusers_logging.is_progress_bar_enabled() is enabled


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_synthetic_pair_draws_finite_pictures(precision: str) -> None:
    """From configurations alone, at a small architecture; parts are shared as in a loaded pair."""
    made = load_synthetic(
        bare_profile("synthetic-sdxl"),
        options=LoadOptions(device="cpu", precision=precision),
        architectures=(SHAPES_BASE, SHAPES_REFINER),
        activations=SHAPES_ACTIVATIONS,
    )
    assert made.refiner is not None
    assert made.base.vae is made.refiner.vae
    assert made.refiner.text_encoder is None
    assert made.refiner.config.requires_aesthetics_score
    assert made.base.unet.dtype is made.dtype
    drawn = picture(made.base, made.refiner)
    assert drawn.isfinite().all()
    assert drawn.float().std() > 0.02


def test_a_synthetic_pair_can_go_without_its_refiner() -> None:
    """And is planned without it."""
    made = load_synthetic(
        bare_profile("synthetic-sdxl"), options=CPU, refiner=False, architectures=(SHAPES_BASE, SHAPES_REFINER)
    )
    assert made.refiner is None
    assert len(made.memory_plan.components) == 4


def test_the_factory_gives_the_runner_of_the_embedded_pair(tmp_path: Path) -> None:
    """From the package: nothing is written."""
    runner = load_runner("shapes", ModelOptions(device="cpu", cache_dir=tmp_path))
    assert isinstance(runner, SDXLRunner)
    model = runner.describe()
    assert (model.profile.name, model.refiner_loaded, model.precision) == ("shapes", True, Precision.FP32)
    assert not list(tmp_path.iterdir())


def test_built_in_weights_take_no_other_source() -> None:
    """The message names the profile that does."""
    with pytest.raises(StartupError, match="--model sdxl"):
        load_runner("shapes", ModelOptions(base="acme/model"))
