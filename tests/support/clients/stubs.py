"""The stubs of every language, as `proto/buf.gen.yaml` says, from plugins on this machine instead of buf.build's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from support.clients.paths import EXAMPLES, PROTO, ROOT, command, files_of, made

TEMPLATE: Final = PROTO / "buf.gen.yaml"
NODE_PACKAGES: Final = (
    EXAMPLES / "node-typescript" / "package.json",
    EXAMPLES / "node-typescript" / "package-lock.json",
)

LOCAL: Final[dict[str, dict[str, str]]] = {
    "buf.build/protocolbuffers/go": {"local": "protoc-gen-go"},
    "buf.build/grpc/go": {"local": "protoc-gen-go-grpc"},
    "buf.build/community/stephenh-ts-proto": {"local": "protoc-gen-ts_proto"},
    "buf.build/protocolbuffers/java": {"protoc_builtin": "java"},
    "buf.build/grpc/java": {"local": "grpc_java_plugin"},
    "buf.build/protocolbuffers/csharp": {"protoc_builtin": "csharp"},
    "buf.build/protocolbuffers/cpp": {"protoc_builtin": "cpp"},
    "buf.build/grpc/cpp": {"local": "grpc_cpp_plugin"},
}
"""The same plugins as programs that Debian and npm have."""

NOT_LOCAL: Final = frozenset(
    {"buf.build/grpc/csharp", "buf.build/community/neoeinstein-prost", "buf.build/community/neoeinstein-tonic"}
)
"""Plugins that neither has: they run on buf.build only."""


def unpinned(remote: str) -> str:
    """Returns the name of a plugin without its version."""
    return remote.partition(":")[0]


def node_modules() -> Path:
    """Returns a directory with the Node example's packages, installed from its lock file."""

    def install(directory: Path) -> None:
        for file in NODE_PACKAGES:
            shutil.copy(file, directory)
        command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=directory)

    return made("npm", NODE_PACKAGES, install) / "node_modules"


def template() -> dict[str, Any]:
    """Returns the template as it is in the repository."""
    loaded: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    return loaded


def local_template(modules: Path) -> dict[str, Any]:
    """Returns the template with every plugin that this machine can run replaced by the local one, options and all."""
    local = template()
    plugins = []
    for plugin in local["plugins"]:
        if unpinned(plugin["remote"]) in NOT_LOCAL:
            continue
        program = dict(LOCAL[unpinned(plugin["remote"])])
        if program.get("local") == "protoc-gen-ts_proto":
            program["local"] = str(modules / ".bin" / "protoc-gen-ts_proto")
        plugins.append(program | {key: value for key, value in plugin.items() if key != "remote"})
    local["plugins"] = plugins
    return local


def stubs() -> Path:
    """Returns a directory with client/examples/LANGUAGE/gen for every language, generated now or in an earlier run."""
    modules = node_modules()

    def generate(directory: Path) -> None:
        chosen = directory / "buf.gen.yaml"
        chosen.write_text(yaml.safe_dump(local_template(modules)), encoding="utf-8")
        buf = Path(sys.executable).with_name("buf")
        command(buf, "generate", "--template", chosen, "--output", directory, cwd=ROOT)

    contract = [*files_of(PROTO / "imagegen", PROTO / "third_party"), PROTO / "buf.yaml", TEMPLATE]
    return made("stubs", [*contract, Path(__file__), *NODE_PACKAGES], generate)
