"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> Path:
    """Writes `data` to `path` through a temporary neighbour and a rename; returns `path`.

    A symbolic link is followed. A device or a pipe is written to directly: renaming over it would replace it.
    Raises OSError as the file system does, leaving no temporary file behind.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("wb") as special:
            special.write(data)
        return path
    # Not tempfile: its files are readable by their owner only, and the result should obey the umask.
    temporary = target.with_name(f".imagegen-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:  # the interrupt of a Ctrl-C included: nothing half-written stays behind
        temporary.unlink(missing_ok=True)
        raise
    return path
