"""Lists what a server consists of: `make sbom` writes build/sbom.json, a CycloneDX 1.6 bill of materials.

cyclonedx-py describes the whole environment, tools of development included; what imagegen[server,cli,otel] does not
need is left out here. The packages of object stores, which the image has as well, are not in that environment. The
result is checked against CycloneDX's own strict schema.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = "imagegen"
EXTRAS = ("server", "cli", "otel")

Bom = dict[str, Any]


def main() -> int:
    """Writes the bill and returns the exit status: 0, or 1 if it does not follow the schema."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("output", type=Path, nargs="?", default=ROOT / "build" / "sbom.json")
    output: Path = parser.parse_args().output
    bom = narrowed(environment(), needed(DISTRIBUTION, EXTRAS))
    text = json.dumps(bom, indent=2) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        print(f"the bill of materials does not follow CycloneDX's schema: {error}", file=sys.stderr)
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(f"{output}: {len(bom['components'])} components")
    return 0


def environment() -> Bom:
    """Returns cyclonedx-py's description of this environment."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--mc-type", "application", "--spec-version", "1.6", "--no-validate", sys.executable]
    bom: Bom = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return bom


def needed(distribution: str, extras: Iterable[str]) -> frozenset[str]:
    """Returns the names of what a distribution with these extras needs here, itself excluded, all levels deep.

    Raises importlib.metadata.PackageNotFoundError if a part of it is not installed.
    """
    names: set[str] = set()
    waiting = [(distribution, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        entry = waiting.pop()
        if entry in seen:
            continue
        seen.add(entry)
        name, wanted = entry
        for text in importlib.metadata.requires(name) or ():
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                names.add(canonicalize_name(need.name))
                waiting.append((need.name, frozenset(need.extras)))
    return frozenset(names - {distribution})


def narrowed(bom: Bom, names: frozenset[str]) -> Bom:
    """Returns a bill with the named components only, and their dependencies on each other.

    Raises ValueError if a name has no component.
    """
    kept = [component for component in bom["components"] if canonicalize_name(component["name"]) in names]
    if missing := names - {canonicalize_name(component["name"]) for component in kept}:
        raise ValueError(f"not in the environment's bill: {', '.join(sorted(missing))}")
    references = {component["bom-ref"] for component in kept} | {bom["metadata"]["component"]["bom-ref"]}
    dependencies = [
        entry | {"dependsOn": [on for on in entry.get("dependsOn", ()) if on in references]}
        for entry in bom["dependencies"]
        if entry["ref"] in references
    ]
    return bom | {"components": kept, "dependencies": dependencies}


if __name__ == "__main__":
    sys.exit(main())
