"""The compilers and libraries that the clients' tests need, as `client_tools.sh` gets them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Final

PROGRAMS: Final = (
    "g++",
    "go",
    "grpc_cpp_plugin",
    "grpc_java_plugin",
    "javac",
    "node",
    "npm",
    "pkg-config",
    "protoc",
    "protoc-gen-go",
    "protoc-gen-go-grpc",
)
GO_PACKAGES: Final = Path("/usr/share/gocode")
"""Where Debian keeps the sources of Go packages, in the form of a GOPATH."""
DECLARED: Final[Mapping[str, tuple[str, ...]]] = {
    "grpc-protobuf": ("grpc-protobuf", "grpc-protobuf-lite", "grpc-api", "proto-google-common-protos", "protobuf"),
    "grpc-stub": ("grpc-stub", "grpc-api", "grpc-context", "guava"),
    "grpc-netty-shaded": (),
    "protobuf-java": ("protobuf",),
    "javax.annotation-api": ("geronimo-annotation-1.3-spec",),
}
"""Debian's jars for what the pom of the Java example declares, with what that brings. What only runs has none."""
JARS: Final = tuple(Path(f"/usr/share/java/{name}.jar") for name in sorted({*chain(*DECLARED.values())}))
"""What the Java example is compiled against: nothing that its pom does not have."""

_FILES: Final = (
    *JARS,
    GO_PACKAGES / "src/google.golang.org/grpc/clientconn.go",
    GO_PACKAGES / "src/google.golang.org/protobuf/proto/decode.go",
    Path("/usr/include/grpcpp/grpcpp.h"),
)


def missing() -> list[str]:
    """Returns what this machine lacks."""
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    return lacking + [str(file) for file in _FILES if not file.exists()]
