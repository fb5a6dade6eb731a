"""Where the command line puts images, and what it says: files, or the standard output."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

from imagegen import types
from imagegen._cli_parser import FORMATS, SUFFIXES, UsageError
from imagegen._files import is_special

STDOUT: Final = Path("/dev/stdout")
"""Stands for the standard output, whatever the system calls it."""


class OutputError(Exception):
    """The standard output takes nothing any more."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"the standard output: {cause}")
        self.unread = isinstance(cause, BrokenPipeError)
        """Whether nobody reads it."""


def destination(arguments: argparse.Namespace, request_id: str) -> tuple[Path, str]:
    """Returns the file and its media type; raises `UsageError` if they contradict each other or cannot be."""
    suffix = arguments.format or "png"
    if arguments.output is None:
        return named(request_id, suffix), FORMATS[suffix]
    output = checked(arguments.output, as_json=arguments.json)
    require_room(output, arguments.num_images)
    if output == STDOUT:
        return output, FORMATS[suffix]
    implied = SUFFIXES.get(output.suffix.lower())
    wanted = FORMATS[arguments.format] if arguments.format else implied
    if wanted is None:
        raise UsageError(f"{output} names no format: end it in {', '.join(SUFFIXES)}, or give --format")
    if implied not in {None, wanted}:
        raise UsageError(f"{output} ends like {implied}, but --format asks for {wanted}")
    return output, wanted


def named(request_id: str, suffix: str) -> Path:
    """Returns the file of a generation whose output has no name; raises `UsageError` if there cannot be one."""
    name = f"{request_id}.{suffix}"
    try:
        return checked(name)
    except UsageError as error:
        if Path(name).name == name:
            raise
        raise UsageError(f"the request id {request_id} names no file here ({error}): say -o FILE") from error


def checked(name: str, *, as_json: bool = False) -> Path:
    """Returns the file of a name; raises `UsageError` if there cannot be one, or if it could not be written to."""
    if name in {"-", str(STDOUT)}:
        return _checked_stdout(as_json=as_json)
    output = Path(name)
    try:
        taken, placed = output.is_dir(), output.parent.is_dir()
        special = is_special(output)
        written_to = output if special else output.resolve().parent
    except (OSError, RuntimeError) as error:  # a name that the file system cannot even look up, or a ring of links
        raise UsageError(str(error)) from error
    if taken:
        raise UsageError(f"{output} is a folder")
    if not placed:
        raise UsageError(f"there is no folder {output.parent}")
    if not _writable(written_to):
        raise UsageError(f"{written_to} cannot be written to")
    return output


def require_room(output: Path, num_images: int) -> None:
    """Raises `UsageError` for several images where there is room for one: they would run into each other."""
    if num_images > 1 and (output == STDOUT or is_special(output)):
        raise UsageError(f"{output} takes one image, not {num_images}: name a file")


def write(image: types.GeneratedImage, output: Path) -> Path:
    """Writes an image to where it goes, and returns that. Raises OSError as the file system does, and `OutputError`."""
    if output != STDOUT:
        return image.save(output)
    with _stdout():
        sys.stdout.buffer.write(image.data)
        sys.stdout.buffer.flush()
    return output


def say(text: str) -> None:
    """Writes a line to the standard output, if there is one; raises `OutputError` if it cannot."""
    with _stdout():
        _write_line(text, sys.stdout)


def complain(text: str) -> None:
    """Writes a line to the error stream, if it takes one: there is nobody else to tell."""
    with suppress(OSError):
        _write_line(text, sys.stderr)


def flush() -> None:
    """Makes sure that the standard output has taken what others wrote to it; raises `OutputError` if it has not."""
    with _stdout():
        if sys.stdout is not None:
            sys.stdout.flush()


def _write_line(text: str, stream: TextIO | None) -> None:
    """Writes a line at once, and characters that the stream does not know as escapes."""
    if stream is None:  # the process was started without
        return
    encoding = stream.encoding or "utf-8"
    stream.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


@contextmanager
def _stdout() -> Iterator[None]:
    """Raises what goes wrong with the standard output as `OutputError`, and gives it up.

    The end of the process would try again, and have a status of its own.
    """
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError):  # where it is no file
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
        raise OutputError(error) from error


def _checked_stdout(*, as_json: bool) -> Path:
    if as_json:
        raise UsageError("--json and the image cannot both have the standard output")
    if sys.stdout is None or sys.stdout.isatty():
        raise UsageError("the standard output is a terminal: redirect it, or name a file")
    return STDOUT


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return os.access(path, mode, effective_ids=effective)
