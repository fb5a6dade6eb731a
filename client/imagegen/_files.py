"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> Path:
    """Writes `data` to `path` through a temporary neighbour and a rename; returns `path`.

    A symbolic link is followed, and a file that is there keeps its permissions. A device or a pipe is written to
    directly: renaming over it would replace it. Raises OSError as the file system does, with `path` as the file's name,
    leaving no temporary file behind.
    """
    try:
        if is_special(path):  # before links are resolved: those of open pipes lead to names that are no files
            with path.open("wb") as special:
                special.write(data)
        else:
            _replace(path.resolve(), data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


def is_special(path: Path) -> bool:
    """Returns whether there is something at `path` that is not a file, such as a pipe, a device or a folder."""
    return path.exists() and not path.is_file()


def _replace(target: Path, data: bytes) -> None:
    # Not tempfile: its files are readable by their owner only, and the result should obey the umask.
    temporary = target.with_name(f".imagegen-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            with suppress(FileNotFoundError):  # what is there keeps its permissions
                temporary.chmod(target.stat().st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:  # the interrupt of a Ctrl-C included: nothing half-written stays behind
        temporary.unlink(missing_ok=True)
        raise
