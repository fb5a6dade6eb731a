"""Where things are, and a directory for each set of inputs, so that nothing is made twice."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
EXAMPLES: Final = ROOT / "client" / "examples"
PROTO: Final = ROOT / "proto"
DRIVERS: Final = ROOT / "tests" / "clients" / "drivers"
BUILD: Final = ROOT / "build" / "clients"
LEFT_BY_TOOLS: Final = frozenset({"gen", "node_modules", "dist", "build", "target"})
"""Directories that a user of the examples may have made in them."""


class CommandFailed(AssertionError):
    """A tool did not do its work; the message has what it wrote."""


def command(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Runs a tool and returns what it printed. Raises CommandFailed with its output if it fails."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def files_of(*places: Path) -> list[Path]:
    """Returns the files at and below these places, sorted, without what tools leave there."""
    found: set[Path] = set()
    for place in places:
        below = (path for path in place.rglob("*") if not LEFT_BY_TOOLS & set(path.relative_to(place).parts))
        found |= {place} if place.is_file() else {path for path in below if path.is_file()}
    return sorted(found)


def made(name: str, inputs: Iterable[Path | str], make: Callable[[Path], None]) -> Path:
    """Returns a directory below build/clients that `make` filled from these inputs, now or in an earlier run.

    The directory is named after the content of the files and the texts among the inputs; older ones are removed.
    """
    digest = hashlib.sha256()
    for part in inputs:
        digest.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        digest.update(b"\0")
    directory = BUILD / f"{name}-{digest.hexdigest()[:16]}"
    if not directory.exists():
        for older in BUILD.glob(f"{name}-*"):
            shutil.rmtree(older)
        unfinished = BUILD / f".{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(directory)
    return directory
