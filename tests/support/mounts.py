"""Small file systems of their own, where the tests may mount them: as root on Linux."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path]:
    """Mounts an empty file system of a size such as 64k at a new directory, and takes it away again."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True, stderr=subprocess.PIPE)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def _can_mount() -> bool:
    try:
        with tempfile.TemporaryDirectory() as folder, tmpfs(Path(folder, "disk"), "16k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="needs the right to mount file systems")
