"""Generates the Python stubs of the contract into client/, and the descriptors that Envoy transcodes with.

Run by `make proto` in an environment of its own (`proto/requirements.txt`), because stubs must be generated at
the oldest protobuf and grpcio that the client allows: newer generated code refuses to import on older runtimes.

The `google.api.http` option and its import are left out of the Python stubs: they mean nothing to a gRPC client
and would make googleapis-common-protos a dependency of every caller. The .proto file keeps them, and so do the
descriptors, which hold Google's error details besides: Envoy needs them to write the details of a status as JSON.
"""

import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
CONTRACT = "imagegen/v1/imagegen.proto"
HTTP_OPTION_FILE = "google/api/annotations.proto"
STATUS_FILES = ("google/rpc/status.proto", "google/rpc/error_details.proto")
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
ROOTS = (f"-I{PROTO}", f"-I{PROTO / 'third_party'}", f"-I{WELL_KNOWN}")
ENVOY = Path("envoy", "imagegen.binpb")
"""Below deploy/."""


def run_protoc(*arguments: str) -> None:
    """Runs protoc, or exits with its status."""
    status = protoc.main(["protoc", *arguments])
    if status:
        sys.exit(status)


def without_http(files: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """Returns the contract and the well-known types, without the HTTP mapping."""
    kept = descriptor_pb2.FileDescriptorSet()
    for file in files.file:
        if file.name.startswith("google/api/"):
            continue
        copy = kept.file.add()
        copy.CopyFrom(file)
        if HTTP_OPTION_FILE in copy.dependency:
            copy.dependency.remove(HTTP_OPTION_FILE)
        for service in copy.service:
            for method in service.method:
                method.ClearField("options")
    return kept


def write_descriptors(path: Path) -> None:
    """Writes the contract with its HTTP mapping, and what its statuses are made of, as a FileDescriptorSet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run_protoc(*ROOTS, "--include_imports", f"--descriptor_set_out={path}", CONTRACT, *STATUS_FILES)


def main(output: Path, deploy: Path) -> None:
    """Writes imagegen/v1/*_pb2* below `output`, and envoy/imagegen.binpb below `deploy`."""
    write_descriptors(deploy / ENVOY)
    with tempfile.TemporaryDirectory() as folder:
        whole, stripped = Path(folder, "whole.binpb"), Path(folder, "stripped.binpb")
        run_protoc(
            *ROOTS,
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={whole}",
            CONTRACT,
        )
        files = without_http(descriptor_pb2.FileDescriptorSet.FromString(whole.read_bytes()))
        stripped.write_bytes(files.SerializeToString())
        run_protoc(
            f"--descriptor_set_in={stripped}",
            f"--python_out={output}",
            f"--pyi_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_grpc_out={output}",
            CONTRACT,
        )


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3):
        sys.exit("usage: generate.py [CLIENT_DIRECTORY DEPLOY_DIRECTORY]")
    main(*map(Path, sys.argv[1:] or (PROTO.parent / "client", PROTO.parent / "deploy")))
