"""What a model directory must hold, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from imagegen_server import shapes
from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.loading import SHARED
from imagegen_server.models.memory.parts import directory_parts
from imagegen_server.models.sources.model_directory import (
    check_directory,
    components_of,
    relative_files,
    variants_of,
    wanted_files,
)
from support.model_files import as_variant, edit

UNET = "unet/diffusion_pytorch_model"
PUBLISHED = (
    ".gitattributes",
    "README.md",
    "model_index.json",
    "sd_xl_base_1.0.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.onnx",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.fp16.safetensors",
    "text_encoder_2/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/merges.txt",
    "tokenizer_2/tokenizer_config.json",
    "tokenizer_2/vocab.json",
    "unet/config.json",
    f"{UNET}.bin",
    f"{UNET}.fp16.safetensors",
    f"{UNET}.safetensors",
    "unet/code.py",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_1_0/config.json",
    "vae_1_0/diffusion_pytorch_model.safetensors",
)
"""The kinds of files in the published repository."""
COMPONENTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base that a test may spoil."""
    shutil.copytree(shapes.DIRECTORY, tmp_path, dirs_exist_ok=True)
    return tmp_path / "base"


@pytest.mark.parametrize("half", [False, True])
def test_of_a_published_repository_only_what_is_loaded_is_wanted(half: bool) -> None:
    """One set of safetensors for the precision, configurations and tokenizer files; nothing else."""
    files = wanted_files(PUBLISHED, COMPONENTS, half=half)
    assert "model_index.json" in files
    assert {"tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "unet/config.json"} <= set(files)
    weights = [name for name in files if name.endswith(".safetensors")]
    assert len(weights) == 4
    assert all((".fp16." in name) is half for name in weights)
    assert not [name for name in files if name.endswith((".bin", ".py", ".msgpack", ".onnx", ".md"))]
    assert not [name for name in files if name.startswith("vae_1_0")]


def test_a_variant_that_some_module_lacks_is_not_taken() -> None:
    """Then all modules load in full and are cast."""
    files = [name for name in PUBLISHED if name != "vae/diffusion_pytorch_model.fp16.safetensors"]
    assert not [name for name in wanted_files(files, COMPONENTS, half=True) if ".fp16." in name]


def test_a_variant_is_taken_for_full_precision_where_nothing_else_is_there() -> None:
    """fp16 files can be widened, and that beats refusing."""
    files = [name for name in PUBLISHED if not name.endswith(".safetensors") or ".fp16." in name]
    weights = [name for name in wanted_files(files, COMPONENTS, half=False) if name.endswith(".safetensors")]
    assert len(weights) == 4


def test_shards_are_wanted_with_their_index() -> None:
    """Sharded weights of either naming belong to their variant."""
    full = [
        f"{UNET}-00001-of-00002.safetensors",
        f"{UNET}-00002-of-00002.safetensors",
        f"{UNET}.safetensors.index.json",
    ]
    half = [
        f"{UNET}.fp16-00001-of-00002.safetensors",
        f"{UNET}-00002-of-00002.fp16.safetensors",
        f"{UNET}.safetensors.index.fp16.json",
    ]
    assert set(wanted_files([*full, *half], ["unet"], half=False)) == set(full)
    assert set(wanted_files([*full, *half], ["unet"], half=True)) == set(half)


def test_a_sound_directory_passes(base: Path) -> None:
    """The embedded pair's base is complete, and names seven components."""
    check_directory(base)
    assert set(components_of(base)) == set(COMPONENTS)
    assert set(variants_of(base, half=True).values()) == {None}


@pytest.mark.parametrize(("configured", "expected"), [(True, True), (False, False), (None, True)])
def test_a_vae_overflows_unless_it_says_that_it_does_not(base: Path, configured: bool | None, expected: bool) -> None:
    """As diffusers takes an unset value: in fp16 the other way round would draw black images."""
    edit(base / "vae" / "config.json", force_upcast=configured)
    parts = {part.name: part.force_upcast for part in directory_parts(base, None, half=True)}
    assert parts == {**dict.fromkeys(parts, False), "vae": expected}


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model_index.json", "no model_index.json"),
        ("scheduler/scheduler_config.json", "scheduler_config.json is missing"),
        ("unet/config.json", r"unet/config\.json is missing"),
        (f"{UNET}.safetensors", "unet has no safetensors file"),
    ],
)
def test_a_missing_file_is_named(base: Path, lost: str, message: str) -> None:
    """The error says which file, before anything is loaded."""
    (base / lost).unlink()
    with pytest.raises(WeightsUnavailable, match=message):
        check_directory(base)


def test_a_tokenizer_needs_one_of_its_two_forms(base: Path) -> None:
    """tokenizer.json is enough, and so are vocab.json and merges.txt."""
    (base / "tokenizer" / "tokenizer.json").unlink()
    check_directory(base)
    (base / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(WeightsUnavailable, match="tokenizer has neither"):
        check_directory(base)


def test_pickles_are_refused_with_the_reason(base: Path) -> None:
    """Weights that exist only as a pickle are not loaded."""
    weights = base / f"{UNET}.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(WeightsUnavailable, match=r"unet has its weights in pickle files.*convert"):
        check_directory(base)


@pytest.mark.parametrize("place", ["pipeline.py", "unet/model.py"])
def test_code_is_refused(base: Path, place: str) -> None:
    """A model directory that brings Python files is not loaded at all."""
    (base / place).write_text("raise SystemExit")
    with pytest.raises(WeightsUnavailable, match=place):
        check_directory(base)


@pytest.mark.parametrize(
    ("component", "entry"),
    [
        ("unet", ["custom", "MyUNet"]),
        ("vae", ["diffusers", "AutoencoderTiny"]),
        ("scheduler", ["diffusers", "DiffusionPipeline"]),
        ("x", ["os", "system"]),
    ],
)
def test_other_classes_are_refused(base: Path, component: str, entry: list[str]) -> None:
    """model_index.json cannot choose what is instantiated."""
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps({**index, component: entry}))
    with pytest.raises(WeightsUnavailable, match=rf"component {component} is {entry[0]}\.{entry[1]}"):
        check_directory(base)


def test_another_kind_of_pipeline_is_refused(base: Path) -> None:
    """The message names the class that the directory holds."""
    (base / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(WeightsUnavailable, match="is a FluxPipeline"):
        check_directory(base)


def test_an_index_with_an_absent_shard_is_incomplete(base: Path) -> None:
    """The shard is named."""
    shutil.move(base / f"{UNET}.safetensors", base / f"{UNET}-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    (base / f"{UNET}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsUnavailable, match="lacks diffusion_pytorch_model-00002-of-00002"):
        check_directory(base)


def test_files_are_named_relative_to_the_directory(base: Path) -> None:
    """With forward slashes, sorted, folders of the model only."""
    (base / "a" / "b" / "c").mkdir(parents=True)
    (base / "a" / "b" / "c" / "deep.json").write_text("{}")
    files = relative_files(base)
    assert list(files) == sorted(files)
    assert "unet/config.json" in files
    assert not [name for name in files if "deep" in name]


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"unet": None}, "unet"),
        ({"unet": "UNet2DConditionModel"}, "unet"),
        ({"unet": []}, "unet"),
        ({"scheduler": [None, None]}, "scheduler"),
        ({"tokenizer": [None, None]}, "tokenizer"),
        ({"text_encoder": [None, None], "tokenizer": [None, None]}, "text_encoder, tokenizer"),
    ],
)
def test_a_base_names_all_its_components(base: Path, entry: dict[str, object], named: str) -> None:
    """What model_index.json leaves out would be missed only when it is asked for something."""
    edit(base / "model_index.json", **entry)
    with pytest.raises(WeightsUnavailable, match=rf"base is no base: its model_index\.json names no {named}$"):
        check_directory(base)


def test_a_refiner_is_no_base(base: Path) -> None:
    """SDXL's has no first text encoder; as a refiner it is complete, and so is a base."""
    refiner = base.parent / "refiner"
    with pytest.raises(WeightsUnavailable, match="refiner is no base"):
        check_directory(refiner)
    check_directory(refiner, exclude=SHARED)
    check_directory(base, exclude=SHARED)


def test_a_refiner_with_a_first_encoder_needs_its_tokenizer(base: Path) -> None:
    """They come together or not at all."""
    edit(base / "model_index.json", tokenizer=[None, None])
    with pytest.raises(WeightsUnavailable, match=r"is no refiner: its model_index\.json names no tokenizer"):
        check_directory(base, exclude=SHARED)


@pytest.mark.parametrize("entry", [[["diffusers"], "X"], ["diffusers", ["X"]], ["diffusers"], [3, 4]])
def test_an_entry_of_another_form_is_refused(base: Path, entry: list[object]) -> None:
    """Like a class that is not loaded."""
    edit(base / "model_index.json", unet=entry)
    with pytest.raises(WeightsUnavailable, match="component unet is"):
        check_directory(base)
    edit(base / "model_index.json", _class_name=["pipeline", "Mine"])
    with pytest.raises(WeightsUnavailable, match="not a Stable Diffusion XL pipeline"):
        check_directory(base)


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer_2/tokenizer_config.json",
    ],
)
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000], ids=["cut", "list", "bytes", "deep"])
def test_a_description_that_cannot_be_read_is_named(base: Path, name: str, content: bytes) -> None:
    """Before a library stumbles over it."""
    (base / name).write_bytes(content)
    with pytest.raises(WeightsUnavailable, match=rf"base/{name} (cannot be read|holds no JSON object)"):
        check_directory(base)


def test_the_files_are_checked_that_will_be_loaded(base: Path) -> None:
    """Half precision loads the variant: a broken one is told then, and does not matter to full precision."""
    for file in list(base.rglob("*.safetensors")):
        content = file.read_bytes()
        as_variant(file)
        file.write_bytes(content)
    index = base / f"{UNET}.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"a": "elsewhere.safetensors"}}))
    check_directory(base)
    check_directory(base, half=False)
    with pytest.raises(WeightsUnavailable, match="unet lacks elsewhere"):
        check_directory(base, half=True)
    (base / f"{UNET}.safetensors").unlink()
    with pytest.raises(WeightsUnavailable, match="unet lacks elsewhere"):
        check_directory(base)
