"""The compilers and libraries that the clients' tests need, as `client_tools.sh` gets them."""

from __future__ import annotations

import shutil
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
JARS: Final = tuple(
    Path(f"/usr/share/java/{name}.jar")
    for name in (
        "geronimo-annotation-1.3-spec",
        "grpc-api",
        "grpc-context",
        "grpc-protobuf",
        "grpc-stub",
        "guava",
        "proto-google-common-protos",
        "protobuf",
        "protobuf-util",
    )
)
"""What the Java example is compiled against."""

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
