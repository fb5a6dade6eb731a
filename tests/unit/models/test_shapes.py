"""The embedded pair: its tokenizer, its files and where they are kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from imagegen_server.models import shapes
from imagegen_server.models.model_directory import relative_files

PROMPT = "a large red circle on a blue background"
TOKENIZER = shapes.build_tokenizer()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pair, built once."""
    directory = tmp_path_factory.mktemp("shapes")
    shapes.build(directory)
    return directory


@pytest.fixture(scope="module")
def stock(pair: Path) -> tuple[StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline]:
    """Both halves as any user of diffusers loads them."""
    base = StableDiffusionXLPipeline.from_pretrained(pair / "base")
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(pair / "refiner")
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    return base, refiner


@pytest.mark.parametrize("word", shapes.WORDS)
def test_every_word_of_the_world_is_one_token(word: str) -> None:
    """The text encoder sees words, not letters."""
    assert TOKENIZER.tokenize(word) == [f"{word}</w>"]


@given(text=st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_has_known_ids(text: str) -> None:
    """Bytes stand in for what the vocabulary lacks, so nothing in a prompt is unknown."""
    ids = TOKENIZER(text)["input_ids"]
    assert ids[0] == TOKENIZER.bos_token_id
    assert ids[-1] == TOKENIZER.eos_token_id == len(TOKENIZER) - 1
    if "<|" not in text:
        assert TOKENIZER.eos_token_id not in ids[1:-1]


def test_a_prompt_is_padded_to_77_with_the_end_token() -> None:
    """As SDXL's first tokenizer pads."""
    ids = TOKENIZER(PROMPT, padding="max_length", truncation=True)["input_ids"]
    assert len(ids) == 77
    assert ids[9:] == [TOKENIZER.eos_token_id] * 68


def test_stock_diffusers_loads_both_halves(
    stock: tuple[StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline],
) -> None:
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


def test_the_untrained_pair_draws_finite_pictures_that_depend_on_the_prompt(
    stock: tuple[StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline],
) -> None:
    """Neither flat nor saturated, and another prompt gives another picture, in both stages."""
    base, refiner = stock
    pictures = []
    for prompt in (PROMPT, "two green stars"):
        first = base(prompt, num_inference_steps=5, generator=torch.Generator().manual_seed(1), output_type="latent")
        second = refiner(
            prompt,
            image=first.images,
            num_inference_steps=10,
            generator=torch.Generator().manual_seed(1),
            output_type="np",
        )
        pictures.append(second.images[0])
    for picture in pictures:
        assert picture.shape == (128, 128, 3)
        assert 0.05 < picture.std() < 0.45
        assert ((picture <= 0) | (picture >= 1)).mean() < 0.5
    assert abs(pictures[0] - pictures[1]).max() > 1 / 255


def test_the_same_seed_writes_the_same_files(pair: Path, tmp_path: Path) -> None:
    """Byte for byte, so a cached pair and a new one are interchangeable."""
    shapes.build(tmp_path)
    assert relative_files(tmp_path / "base") == relative_files(pair / "base")
    for name in relative_files(pair):
        assert (tmp_path / name).read_bytes() == (pair / name).read_bytes()
    for half in ("base", "refiner"):
        for name in relative_files(pair / half):
            assert (tmp_path / half / name).read_bytes() == (pair / half / name).read_bytes()


def test_another_seed_draws_other_weights(pair: Path, tmp_path: Path) -> None:
    """The seed reaches every module."""
    shapes.build(tmp_path, seed=5)
    for name in relative_files(pair / "base"):
        if name.endswith(".safetensors"):
            assert (tmp_path / "base" / name).read_bytes() != (pair / "base" / name).read_bytes()


def test_the_halves_share_text_encoder_2_and_the_vae(pair: Path) -> None:
    """The refiner's files of shared parts are the base's."""
    for name in ("text_encoder_2/model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        assert (pair / "base" / name).read_bytes() == (pair / "refiner" / name).read_bytes()
    unets = [load_file(pair / half / "unet/diffusion_pytorch_model.safetensors") for half in ("base", "refiner")]
    assert unets[0]["conv_in.weight"].equal(unets[1]["conv_in.weight"]) is False


def test_text_encoders_are_written_with_sdxls_own_tensor_names(pair: Path) -> None:
    """So programs of any age that read SDXL's files read these."""
    names = load_file(pair / "base" / "text_encoder_2" / "model.safetensors").keys()
    assert all(name.startswith(("text_model.", "text_projection.")) for name in names)


def test_ensure_builds_once(tmp_path: Path) -> None:
    """The second call returns the same directory without touching it."""
    first = shapes.ensure(tmp_path / "cache")
    stamp = (first / "base" / "model_index.json").stat().st_mtime_ns
    assert shapes.ensure(tmp_path / "cache") == first
    assert (first / "base" / "model_index.json").stat().st_mtime_ns == stamp
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]


@pytest.mark.slow
def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    """Both get a complete pair, and nothing else is left behind."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom imagegen_server.models import shapes\n"
        "print(shapes.ensure(Path(sys.argv[1])))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed[0] == printed[1]
    assert [str(path) for path in tmp_path.iterdir()] == [printed[0]]
    assert "unet/diffusion_pytorch_model.safetensors" in relative_files(Path(printed[0]) / "refiner")


def test_the_cache_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME where it is set, ~/.cache elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shapes.user_cache_dir() == tmp_path / "imagegen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert shapes.user_cache_dir() == tmp_path / "home" / ".cache" / "imagegen"


def test_a_cache_that_cannot_be_written_is_a_startup_error(tmp_path: Path) -> None:
    """The error says where and what to do, and names no traceback."""
    from imagegen_server import models
    from imagegen_server.errors import WeightsUnavailable

    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(WeightsUnavailable, match="--cache-dir"):
        models.load_runner("shapes", models.ModelOptions(cache_dir=blocked / "below"))
