"""Compiles the examples, and the drivers that run the table's cases with the examples' code."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.clients.paths import BUILD, DRIVERS, EXAMPLES, LEFT_BY_TOOLS, PROTO, command, files_of, made
from support.clients.stubs import node_modules, stubs
from support.clients.tools import GO_PACKAGES, JARS


@dataclass(kw_only=True, frozen=True, slots=True)
class Program:
    """What a language's build came to."""

    driver: tuple[str, ...]
    """Reads cases and writes answers, a JSON line each."""
    example: tuple[str, ...] = ()
    """The example's own program."""


def go() -> Program:
    """Compiles the Go example and its driver in GOPATH mode, from Debian's packages."""
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOCACHE": str(BUILD / "cache-of-go"),
    }
    generated = stubs() / "client/examples/go/gen"

    def build(directory: Path) -> None:
        package = directory / "src" / "imagegen-example"
        shutil.copytree(EXAMPLES / "go", package, ignore=_LEFT_BY_TOOLS)
        shutil.copytree(generated, package / "gen")
        shutil.copytree(DRIVERS / "go", directory / "src" / "imagegen-driver")
        env = {**environment, "GOPATH": f"{directory}:{GO_PACKAGES}"}
        for name, program in (("imagegen-driver", "driver"), ("imagegen-example", "generate")):
            command("go", "build", "-o", directory / program, name, env=env)

    directory = made("go", [*files_of(EXAMPLES / "go", DRIVERS / "go", generated)], build)
    return Program(driver=(str(directory / "driver"),), example=(str(directory / "generate"),))


def node() -> Program:
    """Compiles the TypeScript example and its driver with tsc."""
    modules = node_modules()
    generated = stubs() / "client/examples/node-typescript/gen"

    def build(directory: Path) -> None:
        shutil.copytree(EXAMPLES / "node-typescript", directory, dirs_exist_ok=True, ignore=_LEFT_BY_TOOLS)
        shutil.copytree(generated, directory / "gen")
        shutil.copytree(DRIVERS / "node", directory / "driver")
        (directory / "node_modules").symlink_to(modules)
        command("node", modules / "typescript/bin/tsc", "--project", directory / "driver", cwd=directory)

    inputs = files_of(EXAMPLES / "node-typescript", DRIVERS / "node", generated)
    compiled = made("node", inputs, build) / "dist"
    return Program(
        driver=("node", str(compiled / "driver/driver.js")), example=("node", str(compiled / "src/generate.js"))
    )


def cpp() -> Program:
    """Compiles the C++ example and its driver, without optimization, against Debian's gRPC."""
    generated = stubs() / "client/examples/cpp/gen"
    example = EXAMPLES / "cpp"

    def build(directory: Path) -> None:
        flags = command("pkg-config", "--cflags", "grpc++", "protobuf").split()
        libraries = command("pkg-config", "--libs", "grpc++", "protobuf", "libcrypto").split()
        sources = {path.name: path for path in [*example.glob("*.cc"), *(DRIVERS / "cpp").glob("*.cc")]}
        sources |= {path.name: path for path in generated.rglob("*.pb.cc") if _needed(path)}

        options = ["-std=c++17", "-O0", "-Wall", "-Wextra", *flags, f"-I{generated}", f"-I{example}"]

        def compile_one(name: str) -> None:
            command("g++", *options, "-c", sources[name], "-o", directory / f"{name}.o")

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(compile_one, sorted(sources)))
        for program, other in (("driver", "generate"), ("generate", "driver")):
            objects = [directory / f"{name}.o" for name in sources if name != f"{other}.cc"]
            command("g++", *objects, "-o", directory / program, *libraries)

    directory = made("cpp", [*files_of(example, DRIVERS / "cpp", generated)], build)
    return Program(driver=(str(directory / "driver"),), example=(str(directory / "generate"),))


def java() -> Path:
    """Returns the directory of the Java example's classes, and its driver's, compiled against Debian's gRPC.

    Debian's google.rpc classes are too old to have ErrorInfo; they are generated here.
    """
    generated = stubs() / "client/examples/java/gen"
    sources = EXAMPLES / "java" / "src/main/java"

    def build(directory: Path) -> None:
        (directory / "rpc").mkdir()
        third_party = PROTO / "third_party"
        command("protoc", f"-I{third_party}", f"--java_out={directory / 'rpc'}", "google/rpc/error_details.proto")
        path = os.pathsep.join(map(str, [directory / "rpc", generated, sources]))
        jars = os.pathsep.join(map(str, JARS))
        options = ["-proc:none", "-implicit:class", "-Xlint:all,-processing,-classfile,-serial", "-Werror"]
        listed = [file for file in files_of(sources, DRIVERS / "java") if file.suffix == ".java"]
        command("javac", *options, "-d", directory / "classes", "-cp", jars, "-sourcepath", path, *listed)

    return made("java", [*files_of(sources, DRIVERS / "java", generated)], build) / "classes"


def python() -> Program:
    """The packaged client needs no build."""
    return Program(driver=(sys.executable, "-m", "support.clients.python_driver"))


LANGUAGES: Final[Mapping[str, Callable[[], Program]]] = {"go": go, "node": node, "cpp": cpp, "python": python}

_LEFT_BY_TOOLS = shutil.ignore_patterns(*LEFT_BY_TOOLS)


def _needed(generated: Path) -> bool:
    """Returns whether a generated file has anything in it: google.rpc has no services."""
    return generated.parent.name == "v1" or not generated.name.endswith(".grpc.pb.cc")
