"""What must not lie in a model directory: files that run code when they are loaded, whatever they are called.

Nothing of it would be loaded, since only safetensors are. But who put it there may have meant it to be, and another
program may be less careful; so the directory is refused, before anything of it is read by a library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CODE: Final = (".py", ".pyc", ".pyd", ".pyx", ".so", ".dll", ".dylib", ".ipynb")
PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".mar")
_NO_PICKLES: Final = ("openvino_model.bin",)
"""Raw numbers under the suffix of pickles; published models bring them."""
_SKIPPED: Final = (".git", ".cache")
"""Directories of tools, from which nothing is loaded."""
_MOST_FILES: Final = 10_000
MAX_HEADER_BYTES: Final = 100 * 10**6
"""The limit that the safetensors format sets itself."""
_MAGIC: Final = {
    b"PK\x03\x04": "a zip archive, as torch saves pickles",
    b"\x93NUMPY": "a NumPy array, which may hold pickles",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"#!": "a script",
    **{bytes((0x80, protocol)): "a pickle" for protocol in range(2, 6)},
}


def foreign_files(directory: Path) -> tuple[str, ...]:
    """Returns what is wrong with the files of a directory, each in words fit for a message."""
    found = []
    for number, path in enumerate(_files(directory)):
        if number >= _MOST_FILES:
            found.append(f"it has more than {_MOST_FILES} files, which no model needs")
            break
        name = path.relative_to(directory).as_posix()
        if problem := _problem(path):
            found.append(f"{name} is {problem}")
    return tuple(found)


def _files(directory: Path) -> Iterator[Path]:
    """Yields the files of a directory, and of those linked into it: a component may be. Each is entered once."""
    seen = {_identity(directory)}
    for folder, folders, names in os.walk(directory, followlinks=True):
        known = {name: _identity(Path(folder, name)) for name in folders if name not in _SKIPPED}
        folders[:] = []
        for name, identity in sorted(known.items()):
            if identity not in seen:
                seen.add(identity)
                folders.append(name)
        yield from (Path(folder, name) for name in sorted(names))


def _identity(directory: Path) -> tuple[int, int]:
    found = directory.stat()
    return found.st_dev, found.st_ino


def _problem(path: Path) -> str:
    """Returns what a file is, if it must not be there."""
    suffix = path.suffix.lower()
    if suffix in _CODE:
        return "code; models are data"
    if suffix in PICKLES and path.name not in _NO_PICKLES:
        return "a pickle, which can run code when it is loaded"
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        return f"not readable: {error.strerror}"
    if suffix == ".safetensors" and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES:
        return ""  # begins with the length of its header, which may look like anything
    return next((f"{kind}, by its content" for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
