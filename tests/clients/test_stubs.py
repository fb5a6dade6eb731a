"""proto/buf.gen.yaml generates what it says, as far as its plugins run on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.clients.paths import EXAMPLES
from support.clients.stubs import LOCAL, NOT_LOCAL, local_template, stubs, template, unpinned

RPCS = re.findall(r"^  rpc (\w+)\(", (EXAMPLES.parents[1] / "proto/imagegen/v1/imagegen.proto").read_text(), re.M)

POM = EXAMPLES / "java" / "pom.xml"

LANGUAGES = ("cpp", "csharp", "go", "java", "node-typescript", "rust")

SERVICES = {
    "go": ("imagegen/v1/imagegen_grpc.pb.go", "package imagegenv1"),
    "node-typescript": ("imagegen/v1/imagegen.ts", "export interface ImageGenClient"),
    "java": ("imagegen/v1/ImageGenGrpc.java", "package imagegen.v1;"),
    "cpp": ("imagegen/v1/imagegen.grpc.pb.h", "namespace imagegen"),
}
"""The file with each language's service, and a line of it that callers depend on."""

MESSAGES = {
    "go": ["imagegen/v1/imagegen.pb.go"],
    "node-typescript": ["imagegen/v1/imagegen.ts", "google/rpc/status.ts", "google/rpc/error_details.ts"],
    "java": ["imagegen/v1/GenerateImageRequest.java"],
    "csharp": ["Imagegen.cs"],
    "cpp": ["imagegen/v1/imagegen.pb.h", "google/rpc/status.pb.h", "google/rpc/error_details.pb.h"],
}


def generated(language: str) -> Path:
    """Returns the directory of a language's stubs."""
    return stubs() / "client/examples" / language / "gen"


def test_plugins_write_into_the_examples() -> None:
    """Every plugin writes into the directory of a language's example."""
    outputs = {plugin["out"] for plugin in template()["plugins"]}
    assert outputs == {f"client/examples/{language}/gen" for language in LANGUAGES}
    assert all((EXAMPLES / language).is_dir() for language in LANGUAGES)


def test_what_cannot_run_here_is_known() -> None:
    """Every plugin is either run here, with the options of the template, or named as one that is not."""
    remotes = [unpinned(plugin["remote"]) for plugin in template()["plugins"]]
    assert sorted(remotes) == sorted([*LOCAL, *NOT_LOCAL])
    local = local_template(Path("modules"))["plugins"]
    assert [plugin["out"] for plugin in local] == [
        plugin["out"] for plugin in template()["plugins"] if unpinned(plugin["remote"]) not in NOT_LOCAL
    ]


def test_javas_plugins_are_of_the_versions_of_its_pom() -> None:
    """protobuf-java refuses code that a newer plugin has generated; it counts as protobuf does, with a 4 before it."""
    remotes = [plugin["remote"] for plugin in template()["plugins"]]
    versions = dict(re.findall(r"<(grpc|protobuf)\.version>(?:4\.(?=3))?([\d.]+)<", POM.read_text(encoding="utf-8")))
    assert f"buf.build/protocolbuffers/java:v{versions['protobuf']}" in remotes
    assert f"buf.build/grpc/java:v{versions['grpc']}" in remotes


@pytest.mark.parametrize("language", SERVICES)
def test_a_client_for_every_call_is_generated(language: str) -> None:
    """The file of the service has every call of the contract."""
    name, line = SERVICES[language]
    text = (generated(language) / name).read_text(encoding="utf-8")
    assert line in text
    assert [rpc for rpc in RPCS if rpc.lower() not in text.lower()] == []


@pytest.mark.parametrize("language", MESSAGES)
def test_messages_are_generated(language: str) -> None:
    """Every message file is there, and the mapping to HTTP is not."""
    directory = generated(language)
    assert [name for name in MESSAGES[language] if not (directory / name).exists()] == []
    assert not list(directory.rglob("*annotations*"))


def test_packages_bring_their_own_google_rpc() -> None:
    """Go, Java and C# would have these types twice."""
    files = [path for language in ("go", "java", "csharp") for path in generated(language).rglob("*")]
    assert [path for path in files if "rpc" in path.parts] == []


def test_csharp_has_the_projects_namespace() -> None:
    assert "namespace ImageGen.V1 {" in (generated("csharp") / "Imagegen.cs").read_text(encoding="utf-8")
