"""Files in a local directory, which several processes may share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imagegen_server.output.store.files import Entry

_PARTIAL: Final = ".partial"
_LOCK: Final = ".lock"
_FILE_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750


class Directory:
    """Writes to a temporary name and renames. Implements `Files`.

    Two locks (flock, so the kernel drops them with their process) make sharing safe. Whoever writes a temporary file
    holds a lock on it, so one that nobody holds was left by a killed process. And renaming shares a lock with looking
    at a file's age and deleting it, so that a file which is written again is never deleted for its old age.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def described(self) -> str:
        """The path."""
        return str(self._path)

    def prepare(self) -> None:
        """Makes the directory. Raises OSError if that cannot be done."""
        self._path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Writes, waits until the file is on the disk, and gives it its name."""
        partial, descriptor = self._begin(name)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
                with self._lock(fcntl.LOCK_SH):
                    partial.replace(self._path / name)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        self._sync()

    def read(self, name: str) -> bytes:
        """Returns the content. Raises OSError with ESTALE if there is no directory any more."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError as error:
            if self._path.is_dir():
                raise
            raise OSError(errno.ESTALE, "the directory is gone") from error

    def entries(self) -> Iterator[Entry]:
        """Yields what does not begin with a dot."""
        with os.scandir(self._path) as found:
            for file in found:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, by another process
                    if not file.name.startswith(".") and file.is_file(follow_symlinks=False):
                        state = file.stat(follow_symlinks=False)
                        yield Entry(name=file.name, size=state.st_size, modified=state.st_mtime)

    def delete(self, name: str, *, written_before: float) -> bool:
        """Looks at the age again and deletes, while nobody can write."""
        path = self._path / name
        with self._lock(fcntl.LOCK_EX), contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < written_before:
                path.unlink()
                return True
        return False

    def clean(self) -> int:
        """Removes the temporary files that nobody is writing, but for those that this user may not remove."""
        removed = 0
        for partial in self._path.glob(f".*{_PARTIAL}"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError):
                descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    partial.unlink()
                    removed += 1
                finally:
                    os.close(descriptor)
        return removed

    @property
    def signs(self) -> bool:
        """Never: a directory has no URLs."""
        return False

    def signed_url(self, name: str, seconds: float) -> str:
        """Raises NotImplementedError: a directory has no URLs."""
        raise NotImplementedError("a directory signs no URLs")

    def _begin(self, name: str) -> tuple[Path, int]:
        """Returns the path of a new temporary file and its descriptor, which holds the lock."""
        while True:
            partial = self._path / f".{name}.{os.getpid()}.{secrets.token_hex(4)}{_PARTIAL}"
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return partial, descriptor
            os.close(descriptor)  # another process took it for a left one, before it was locked

    @contextlib.contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def _sync(self) -> None:
        """Waits until the names are on the disk as well."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
