"""Which safetensors files of a module are loaded, and what is wrong with them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from imagegen_server import shapes
from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.sources.weight_files import choose_variants, parameter_count, weights_lack

UNET = "unet/diffusion_pytorch_model"
VAE = "vae/diffusion_pytorch_model"
PARTS = {
    "__metadata__": {"format": "pt"},
    "weight": {"dtype": "F16", "shape": [3, 5], "data_offsets": [0, 30]},
    "position_ids": {"dtype": "I64", "shape": [1, 77], "data_offsets": [30, 646]},
}
"""A header of 15 parameters and 646 bytes of data."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base that a test may spoil."""
    return shutil.copytree(shapes.BASE, tmp_path / "base")


def write(path: Path, header: Any, data: int) -> None:
    """Writes a safetensors file with a header and so many bytes of data."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


@pytest.mark.parametrize(
    ("files", "half", "expected"),
    [
        ([f"{UNET}.safetensors", f"{VAE}.safetensors"], True, [None, None]),
        ([f"{UNET}.fp16.safetensors", f"{VAE}.fp16.safetensors"], False, ["fp16", "fp16"]),
        ([f"{UNET}.fp16.safetensors", f"{VAE}.safetensors"], False, ["fp16", None]),
        ([f"{UNET}.fp16.safetensors", f"{VAE}.safetensors"], True, ["fp16", None]),
        ([f"{UNET}.fp16.safetensors", f"{VAE}.fp16.safetensors", f"{VAE}.safetensors"], False, ["fp16", None]),
        ([f"{UNET}.fp16.safetensors", f"{VAE}.fp16.safetensors", f"{VAE}.safetensors"], True, ["fp16", "fp16"]),
        ([f"{UNET}.fp16.safetensors", f"{UNET}.safetensors", f"{VAE}.safetensors"], True, [None, None]),
    ],
)
def test_the_variant_is_each_modules_own(files: list[str], half: bool, expected: list[str | None]) -> None:
    """A module that has fp16 alone loads that; full precision takes the full files of every other."""
    assert list(choose_variants(files, ["unet", "vae"], half=half).values()) == expected


def test_parameters_are_counted_from_headers(base: Path) -> None:
    """The counts are those of the modules, position ids and metadata left out; a variant is counted from its own."""
    assert parameter_count(base, "unet") == 2_490_420
    write(base / f"{UNET}.fp16.safetensors", PARTS, data=646)
    assert parameter_count(base, "unet", "fp16") == 15
    assert parameter_count(base, "unet") == 2_490_420


@pytest.mark.parametrize(
    ("dtype", "count"),
    [("F64", 15), ("F32", 15), ("F16", 15), ("BF16", 15), ("F8_E4M3", 15), ("I64", 0), ("U8", 0), ("BOOL", 0)],
)
def test_parameters_are_counted_in_whatever_they_are_stored(tmp_path: Path, dtype: str, count: int) -> None:
    """Whole numbers and truth values are none."""
    (tmp_path / "unet").mkdir()
    header = {"weight": {"dtype": dtype, "shape": [3, 5], "data_offsets": [0, 60]}}
    write(tmp_path / f"{UNET}.safetensors", header, data=60)
    assert parameter_count(tmp_path, "unet") == count


@pytest.mark.parametrize("data", [0, 645, 647])
def test_a_file_that_is_not_whole_is_named(base: Path, data: int) -> None:
    """Its length is what the header tells of, to the byte: found out without reading the data."""
    write(base / f"{UNET}.safetensors", PARTS, data=data)
    with pytest.raises(WeightsUnavailable, match=r"unet/diffusion_pytorch_model\.safetensors has .* it is not whole"):
        parameter_count(base, "unet")


@pytest.mark.parametrize(
    "header",
    [
        [],
        "text",
        {"weight": {}},
        {"weight": []},
        {"weight": {"shape": [1], "data_offsets": [0, 4]}},
        {"weight": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}},
        {"weight": {"dtype": "F32", "shape": ["a"], "data_offsets": [0, 4]}},
        {"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"weight": {"dtype": "F32", "shape": [1], "data_offsets": None}},
    ],
)
def test_a_header_of_another_form_is_no_safetensors_file(base: Path, header: Any) -> None:
    """Whatever JSON it is."""
    write(base / f"{UNET}.safetensors", header, data=4)
    with pytest.raises(WeightsUnavailable, match=r"unet/diffusion_pytorch_model\.safetensors is no safetensors file"):
        parameter_count(base, "unet")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a zip file",
        struct.pack("<Q", 50) + b'{"weight": {"dty',
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 200_000) + b"[" * 200_000,
    ],
)
def test_a_file_that_is_no_safetensors_file_is_named(base: Path, content: bytes) -> None:
    """An empty, foreign or cut file is found out from its header."""
    (base / f"{UNET}.safetensors").write_bytes(content)
    with pytest.raises(WeightsUnavailable, match="is no safetensors file"):
        parameter_count(base, "unet")


def test_shards_without_their_index_are_a_lack(tmp_path: Path) -> None:
    """Nothing would load them."""
    files = [f"{UNET}-00001-of-00002.safetensors", f"{UNET}-00002-of-00002.safetensors"]
    assert "unet has shards of weights without their index" in weights_lack(tmp_path, files, "unet", None)
    assert weights_lack(tmp_path, [*files, f"{UNET}.safetensors"], "unet", None) == ""


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": ["a"]}', "[" * 100_000])
def test_an_index_of_another_form_is_a_lack(base: Path, index: str) -> None:
    """It is named, whatever it holds."""
    name = f"{UNET}.safetensors.index.json"
    (base / name).write_text(index)
    lack = weights_lack(base, [f"{UNET}.safetensors", name], "unet", None)
    assert lack.startswith(f"{name} is no index of shards")
