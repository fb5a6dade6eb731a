"""Pins and hashes what the container image installs: `make lock` writes deploy/locked.

The versions are those of the environment that the tests run in, so what is deployed is what was tested. The packages of
object stores are not in it, since no test needs them: they have the newest versions that go with the rest. The files:

- `server.txt`: everything that imagegen[server,otel,s3,gs] needs, without torch
- `torch-cuda.txt`: torch from PyPI, which is the build for NVIDIA GPUs, with the CUDA libraries that it needs
- `torch-cpu.txt`: the same version of torch, without CUDA, from PyTorch's own index

They are for CPython 3.11 on x86-64 Linux, as the image is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKED = ROOT / "deploy" / "locked"
PYTHON = "3.11"
PLATFORM = "manylinux_2_28_x86_64"
EXTRAS = ("server", "otel")
"""What is installed where the tests run."""
STORES = ("s3", "gs")
"""What only `--store` with a URL needs."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA = re.compile(r"(torch|triton|cuda-.*|nvidia-(?!ml-py$).*)")
"""The packages that differ between the two builds of torch."""


def main() -> int:
    """Writes the files and returns the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--cpu-index", default=CPU_INDEX, help="where torch's build without CUDA is (default: %(default)s)"
    )
    chosen = parser.parse_args()
    tested = tested_versions()
    served = {name: pinned(block) for name, block in resolved(tested, EXTRAS).items()}
    # not within all that is tested: tools of development have versions that the object stores' packages refuse
    blocks = resolved(served, (*EXTRAS, *STORES))
    cuda = {name: text for name, text in blocks.items() if CUDA.fullmatch(name)}
    wheel = f"torch=={tested['torch']}+cpu"
    write("server", [text for name, text in blocks.items() if name not in cuda])
    write("torch-cuda", list(cuda.values()))
    write(
        "torch-cpu",
        [f"--extra-index-url {CPU_INDEX}", f"{wheel} \\\n    --hash=sha256:{digest(wheel, chosen.cpu_index)}"],
    )
    print(f"{LOCKED}: {len(blocks)} packages, {len(cuda)} of them torch's build for CUDA")
    return 0


def tested_versions() -> dict[str, str]:
    """Returns what is installed here, name to version, without the parts that name a build: 2.13.0 for 2.13.0+cpu."""
    return {
        re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower(): package.version.partition("+")[0]
        for package in importlib.metadata.distributions()
        if package.metadata["Name"] != "imagegen"
    }


def resolved(versions: dict[str, str], extras: tuple[str, ...]) -> dict[str, str]:
    """Returns every package of the server with its version and hashes, as requirement files have them, by name.

    Those that are among `versions` have the version that they have there.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("".join(f"{name}=={version}\n" for name, version in versions.items()))
        constraints.flush()
        chosen = [part for extra in extras for part in ("--extra", extra)]
        command = ["uv", "pip", "compile", "pyproject.toml", *chosen, "-c", constraints.name, "--generate-hashes"]
        command += ["--python-version", PYTHON, "--python-platform", f"x86_64-{PLATFORM.rpartition('_x86')[0]}"]
        command += ["--quiet", "--no-header", "--no-annotate", "--no-config", "--upgrade"]
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    return {block.partition("==")[0]: block.rstrip() for block in blocks}


def pinned(block: str) -> str:
    """Returns the version in a package's part of a requirement file."""
    return block.partition("==")[2].split(maxsplit=1)[0]


def digest(requirement: str, index: str) -> str:
    """Returns the SHA-256 of the wheel of a requirement, which is downloaded for that."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--python-version", PYTHON, "--platform", PLATFORM, "--extra-index-url", index, "--dest", folder]
        subprocess.run([*command, requirement], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with wheel.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


def write(name: str, lines: list[str]) -> None:
    """Writes one file."""
    head = f"# written by `make lock`: CPython {PYTHON} on x86-64 Linux"
    LOCKED.mkdir(exist_ok=True)
    (LOCKED / f"{name}.txt").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
