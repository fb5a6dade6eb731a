"""Every flag and variable of the server that a deployed file or its documentation names is one that the server has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imagegen_server import probe, settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = sorted(
    path
    for path in DEPLOY.rglob("*")
    if path.is_file() and not path.is_relative_to(DEPLOY / "grafana") and "__pycache__" not in path.parts
)
KNOWN = {f"{settings.PREFIX}{name.upper()}" for group in settings.GROUPS for name in group.model_fields}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_variables_are_settings(path: Path) -> None:
    """What begins as the server's variables do is one of them."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # a descriptor set
        return
    assert set(re.findall(rf"\b{settings.PREFIX}[A-Z_]*[A-Z]\b", text)) <= KNOWN


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("systemd/imagegen-server.service", r"^ExecStart=(.*)$"), ("Dockerfile", r"^ENTRYPOINT (.*)$")],
)
def test_flags_are_settings(name: str, pattern: str) -> None:
    """Where the program is started, its flags are its own."""
    (line,) = re.findall(pattern, (DEPLOY / name).read_text(encoding="utf-8"), re.MULTILINE)
    known = {f"--{name.removeprefix(settings.PREFIX).lower().replace('_', '-')}" for name in KNOWN}
    assert "imagegen-server" in line
    assert set(re.findall(r"--[a-z-]+", line)) <= known


def test_values_are_those_that_the_server_takes() -> None:
    """Every file of settings is read without a complaint."""
    files = sorted(DEPLOY.rglob("*.env"))
    assert files
    for path in files:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        variables = dict(line.split("=", 1) for line in lines)
        assert settings.unknown_variables(variables) == ()
        assert probe.own_address(settings.parse([], variables))
