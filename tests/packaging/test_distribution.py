"""What is in the wheel, and what the bare install is."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server"
MOST_BYTES = 20 * 10**6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tracked files, as from a fresh clone."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(output), str(source)],
        check=True,
        timeout=240,
    )
    (built,) = output.glob("*.whl")
    return built


def test_the_wheel_has_both_packages_and_nothing_else(wheel: Path) -> None:
    """Client, server, type markers, configurations and the embedded pair; no tests, no other weights, small."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"imagegen", "imagegen_server", "imagegen-0.1.0.dist-info"}
    for needed in ("imagegen/py.typed", "imagegen_server/py.typed", "imagegen/v1/imagegen_pb2.pyi"):
        assert needed in names
    configurations, pair = "imagegen_server/models/sources/configs/", "imagegen_server/shapes/pair/"
    for data in (configurations, pair):
        assert {name for name in names if name.startswith(data)} == _files(data)
    weights = {name for name in names if name.endswith((".safetensors", ".bin", ".ckpt", ".pt", ".npz"))}
    assert len(weights) == 8
    assert weights <= _files(pair)
    assert wheel.stat().st_size <= MOST_BYTES


def _files(directory: str) -> set[str]:
    """Returns the files below a directory of the server, as the wheel names them."""
    return {str(path.relative_to(SERVER)) for path in (SERVER / directory).rglob("*") if path.is_file()}


def test_the_bare_install_is_the_client(wheel: Path, tmp_path: Path) -> None:
    """It brings grpcio and protobuf only; the command works and the server says what it lacks."""
    home = tmp_path / "bare"
    venv.create(home, with_pip=True)
    python, install = home / "bin" / "python", ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([python, *install, wheel], check=True, timeout=240)
    listing = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    installed = {line.split("==")[0].split(" @")[0].lower() for line in listing.stdout.split("\n") if line}
    assert installed - {"setuptools"} == {"imagegen", "grpcio", "protobuf", "typing_extensions"}
    helped = subprocess.run([home / "bin" / "imagegen", "--help"], capture_output=True, text=True, check=False)
    assert helped.returncode == 0
    assert "generate" in helped.stdout
    refused = subprocess.run([home / "bin" / "imagegen-server"], capture_output=True, text=True, check=False)
    assert refused.returncode == 3
    assert "pip install '.[server]' in a checkout of ImageGen" in refused.stderr


def test_the_engine_and_the_client_import_no_torch() -> None:
    """Importing the client or the engine loads neither torch nor diffusers, and the engine no grpc."""
    program = "import sys, {}; print(*sorted(m for m in ('torch', 'diffusers', 'grpc') if m in sys.modules))"
    for module, allowed in (("imagegen", {"grpc"}), ("imagegen_server.engine", set())):
        done = subprocess.run(
            [sys.executable, "-c", program.format(module)], capture_output=True, text=True, check=True, timeout=60
        )
        assert set(done.stdout.split()) <= allowed
