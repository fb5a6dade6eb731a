"""What the image installs is pinned, hashed, complete, and what the project allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from support.scripts import load

ROOT = Path(__file__).resolve().parents[2]
LOCKED = ROOT / "deploy" / "locked"
VARIANTS = ("cpu", "cuda")
lock = load("supply/lock.py")
_PIN = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+) \\\n(?P<hashes>(?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M
)
_ENVIRONMENT = {"python_version": "3.11", "python_full_version": "3.11.14", "sys_platform": "linux", "extra": ""}


def _pins(name: str) -> dict[NormalizedName, Version]:
    text = (LOCKED / f"{name}.txt").read_text(encoding="utf-8")
    pins = {canonicalize_name(match["name"]): Version(match["version"]) for match in _PIN.finditer(text)}
    rest = [line for line in _PIN.sub("", text).splitlines() if not line.startswith(("#", "--extra-index-url "))]
    assert rest == [], f"{name}.txt: neither a pin with hashes nor a comment"
    return pins


SERVER = _pins("server")
TORCH = {variant: _pins(f"torch-{variant}") for variant in VARIANTS}


def _required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    locked = [text for extra in (*lock.EXTRAS, *lock.STORES) for text in extras[extra]]
    return [Requirement(text) for text in (*project["dependencies"], *locked)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_requirement_is_pinned_within_its_range(variant: str) -> None:
    """What pyproject.toml asks for is there, in a version that it allows."""
    pins = SERVER | TORCH[variant]
    for requirement in _required():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not locked: make lock"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{name} {pins[name]}: make lock"


def test_the_image_can_use_what_its_settings_offer() -> None:
    """It has no pip: the stores that --store names in its help, and traces, are installed already."""
    assert {"s3fs", "gcsfs", "opentelemetry-exporter-otlp-proto-grpc"} <= set(SERVER)


@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_is_the_version_that_is_tested(variant: str) -> None:
    """constraints.txt fixes it for development; a build for a device differs in its local version only."""
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    torch = TORCH[variant][canonicalize_name("torch")]
    assert torch.public == tested["torch"]
    assert torch.local == {"cpu": "cpu", "cuda": None}[variant]


def test_the_variants_differ_in_torch_alone() -> None:
    """The CUDA libraries are with torch's build for them, and nothing is pinned twice."""
    assert set(TORCH["cpu"]) == {"torch"}
    assert not set(SERVER) & set(TORCH["cuda"])
    assert any(name.startswith("nvidia-cudnn") for name in TORCH["cuda"])
    assert not [name for name in SERVER if name.startswith(("nvidia-", "cuda-", "triton")) and name != "nvidia-ml-py"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pins_are_closed(variant: str) -> None:
    """What the locked packages need is locked as well: pip may be told --no-deps."""
    import importlib.metadata

    pins = SERVER | TORCH[variant]
    for name, version in pins.items():
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # CUDA's libraries, object stores' packages
        if Version(installed.version).public != version.public:
            continue
        needs = [Requirement(text) for text in installed.requires or ()]
        for need in needs:
            if need.marker is None or need.marker.evaluate(_ENVIRONMENT):
                missing = canonicalize_name(need.name) not in pins
                assert not missing or need.name.startswith(("nvidia-", "cuda-", "triton")), f"{name} needs {need}"
