"""`imagegen-server key`: makes an API key. Options of its own; it starts and reads nothing."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Runs the command line without the program's name and returns the exit status: 0, 2 wrong usage, 3 no file."""
    from imagegen_server.api import new_key  # noqa: PLC0415 - takes a moment that --help need not wait for

    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        key, line = new_key(arguments.tenant, arguments.role, arguments.expires)
    except ValueError as error:
        parser.error(str(error).replace("line 1: ", ""))
    if arguments.file is None:
        print(f"the key, which is not shown again:\n{key}\nits line for the file of --api-keys:\n{line}")
        return 0
    try:
        _append(arguments.file, line)
    except OSError as error:
        parser.exit(3, f"imagegen-server key: cannot write {arguments.file}: {error.strerror}\n")
    print(key)
    return 0


def _append(path: Path, line: str) -> None:
    """Adds a line with one write: a server that reads the file meanwhile sees the line or not."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        whole = not size or os.pread(descriptor, 1, size - 1) == b"\n"
        os.write(descriptor, f"{'' if whole else os.linesep}{line}\n".encode())
    finally:
        os.close(descriptor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imagegen-server key",
        description="Makes an API key. The key is printed once; the server's file has its hash alone.",
        allow_abbrev=False,
    )
    parser.add_argument("--tenant", required=True, metavar="NAME", help="whose key it is: generations and limits")
    parser.add_argument(
        "--role", action="append", default=[], metavar="NAME", help="a role of its callers; may be given again"
    )
    parser.add_argument("--expires", metavar="TIME", help="when it ends, as 2027-01-31T00:00:00Z (default: never)")
    parser.add_argument(
        "--file", type=Path, metavar="PATH", help="append the line to this file and print the key alone"
    )
    return parser
