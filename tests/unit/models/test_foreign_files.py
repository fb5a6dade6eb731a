"""Files that must not lie in a model directory."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.sources import foreign_files as foreign_files_of
from imagegen_server.models.sources.foreign_files import foreign_files
from imagegen_server.models.sources.model_directory import check_directory


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return exec, ("raise SystemExit('it ran')",)


def archive() -> bytes:
    """Returns a zip file with a pickle in it, as torch.save writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    return buffer.getvalue()


BOMB = pickle.dumps(Bomb())
FOREIGN = {
    "unet/diffusion_pytorch_model.bin": (b"", "a pickle"),
    "model.ckpt": (b"", "a pickle"),
    "vae/a.pt": (b"", "a pickle"),
    "vae/b.PTH": (b"", "a pickle"),
    "c.pkl": (BOMB, "a pickle"),
    "d.pickle": (b"", "a pickle"),
    "pipeline.py": (b"", "code"),
    "unet/deep/er/model.py": (b"", "code"),
    "text_encoder/fast.so": (b"", "code"),
    "unet/model.safetensors": (BOMB, "a pickle, by its content"),
    "vae/config2.json": (pickle.dumps(Bomb(), 2), "a pickle, by its content"),
    "tokenizer/vocab2.txt": (archive(), "a zip archive"),
    "README": (b"#!/bin/sh\n", "a script"),
    "unet/weights": (b"\x7fELF\x02\x01", "a program"),
    "arrays": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "openvino_model.bin": (BOMB, "a pickle, by its content"),
}


def put(directory: Path, name: str, content: bytes) -> None:
    """Writes a file, and the directories that it needs."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("name", FOREIGN)
def test_each_is_found(tmp_path: Path, name: str) -> None:
    """By its name or its content, wherever it lies."""
    content, kind = FOREIGN[name]
    put(tmp_path, name, content)
    (problem,) = foreign_files(tmp_path)
    assert problem.startswith(f"{name} is {kind}")


def test_all_are_named_at_once_with_what_else_is_wrong(tmp_path: Path) -> None:
    """Code, pickles, classes and missing files in one message."""
    for name, (content, _) in FOREIGN.items():
        put(tmp_path, name, content)
    index = {"_class_name": "StableDiffusionXLPipeline", "unet": ["os", "system"], "vae": ["x"]}
    put(tmp_path, "model_index.json", json.dumps(index).encode())
    with pytest.raises(WeightsUnavailable) as caught:
        check_directory(tmp_path)
    for part in (*FOREIGN, "component unet is os.system", "component vae is x"):
        assert part in str(caught.value)


def test_what_models_bring_is_no_problem(tmp_path: Path) -> None:
    """Descriptions, pictures, other formats that are only data, and what tools leave in directories of their own."""
    fine = {
        "README.md": b"# a model",
        "unet/diffusion_pytorch_model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
        "unet/header_like_a_pickle.safetensors": (0x0280).to_bytes(8, "little") + b"{",
        "unet/header_like_a_program.safetensors": (0x15A4D).to_bytes(8, "little") + b"{",
        "unet/openvino_model.bin": b"\0\0\x80\x3f",
        "unet/model.onnx": b"\x08\x08",
        "vae/flax_model.msgpack": b"\x83\xa7",
        "picture.png": b"\x89PNG\r\n",
        ".git/hooks/pre-commit.py": b"#!/bin/sh",
        ".cache/huggingface/x.bin": b"",
        "empty": b"",
    }
    for name, content in fine.items():
        put(tmp_path, name, content)
    assert foreign_files(tmp_path) == ()


def test_not_every_file_of_a_wrong_directory_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's home, say: that it has too many is enough."""
    monkeypatch.setattr(foreign_files_of, "_MOST_FILES", 3)
    for number in range(3):
        put(tmp_path, f"{number}.txt", b"")
    assert foreign_files(tmp_path) == ()
    put(tmp_path, "4.py", b"")
    assert foreign_files(tmp_path) == ("it has more than 3 files, which no model needs",)


def test_linked_directories_are_looked_through(tmp_path: Path) -> None:
    """Once each, also if a link leads back; a component may lie elsewhere, and its files may be links themselves."""
    model, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    put(model, "model_index.json", b"{}")
    put(elsewhere, "modeling.py", b"")
    put(elsewhere, "deep/weights.bin", b"")
    put(tmp_path, "blobs/1", b"\x02\0\0\0\0\0\0\0{}")
    put(tmp_path, "blobs/2", BOMB)
    (elsewhere / "model.safetensors").symlink_to(tmp_path / "blobs" / "1")
    (elsewhere / "config.json").symlink_to(tmp_path / "blobs" / "2")
    (elsewhere / "deep" / "back").symlink_to(model)
    (model / "unet").symlink_to(elsewhere)
    (model / "vae").symlink_to(elsewhere)
    assert [problem.partition(" is ")[0] for problem in foreign_files(model)] == [
        "unet/config.json",
        "unet/modeling.py",
        "unet/deep/weights.bin",
    ]


def test_the_server_refuses_before_it_loads_anything(tmp_path: Path) -> None:
    """Exit status 3 and every file named, though one of them would run code as soon as it was loaded."""
    put(tmp_path, "model_index.json", b'{"_class_name": "StableDiffusionXLPipeline"}')
    put(tmp_path, "unet/diffusion_pytorch_model.safetensors", BOMB)
    put(tmp_path, "unet/__init__.py", b"raise SystemExit('it ran')")
    command = [sys.executable, "-m", "imagegen_server", "--model", "sdxl", "--base", str(tmp_path), "--port", "0"]
    command += ["--metrics-port", "none", "--no-use-refiner"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stderr
    assert "unet/__init__.py is code" in ended.stderr
    assert "unet/diffusion_pytorch_model.safetensors is a pickle, by its content" in ended.stderr
    assert "it ran" not in ended.stderr + ended.stdout
