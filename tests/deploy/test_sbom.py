"""The bill of materials lists what a server needs, all of it, and nothing of what develops it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from support.scripts import DEPLOY, load

sbom = load("supply/sbom.py")


def _bill() -> dict[str, Any]:
    """Returns what cyclonedx-py says of an environment with a server's part and a tool of development."""
    components = [
        {"type": "library", "name": name, "version": "1.0", "bom-ref": f"{name}==1.0"}
        for name in ("Grpc_IO", "pytest", "six")
    ]
    root = {"type": "application", "name": "imagegen", "version": "0.1.0", "bom-ref": "root-component"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
        "dependencies": [
            {"ref": "root-component", "dependsOn": ["Grpc_IO==1.0", "pytest==1.0"]},
            {"ref": "Grpc_IO==1.0", "dependsOn": ["six==1.0"]},
            {"ref": "pytest==1.0"},
            {"ref": "six==1.0"},
        ],
    }


def test_what_is_not_needed_is_left_out() -> None:
    """Its component and every mention of it; names are compared as package indexes do."""
    narrowed = sbom.narrowed(_bill(), frozenset({"grpc-io", "six"}))
    assert [component["name"] for component in narrowed["components"]] == ["Grpc_IO", "six"]
    assert "pytest" not in json.dumps(narrowed)
    assert narrowed["dependencies"][0] == {"ref": "root-component", "dependsOn": ["Grpc_IO==1.0"]}
    assert sbom.JsonStrictValidator(sbom.SchemaVersion.V1_6).validate_str(json.dumps(narrowed)) is None


def test_what_is_needed_is_not_missing() -> None:
    """A part that the environment does not have is an error, not a shorter bill."""
    with pytest.raises(ValueError, match="torch"):
        sbom.narrowed(_bill(), frozenset({"torch"}))


def test_needed_is_what_is_locked() -> None:
    """All levels deep a server needs here what the image installs there, but for torch, whose build differs."""
    locked = (DEPLOY / "locked" / "server.txt").read_text(encoding="utf-8")
    names = {name.replace("_", "-").replace(".", "-") for name in re.findall(r"^([\w.-]+)==", locked, re.MULTILINE)}
    needed = sbom.needed("imagegen", ("server", "otel"))
    assert needed - names == {"torch"}
    assert {"grpcio", "diffusers", "opentelemetry-sdk", "sympy"} <= needed
    assert not {"pytest", "ruff", "matplotlib"} & needed


def test_an_extra_of_a_part_counts() -> None:
    """Extras are followed where they are asked for, and not elsewhere."""
    assert "opentelemetry-sdk" not in sbom.needed("imagegen", ("server",))
    assert sbom.needed("imagegen", ()) >= {"grpcio", "protobuf"}
    assert "torch" not in sbom.needed("imagegen", ())
