"""What a place for files must be able to do: write whole files or none, read, list and delete them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(kw_only=True, frozen=True, slots=True)
class Entry:
    """A file in the store."""

    name: str
    size: int
    """Bytes."""
    modified: float
    """When it was last written, in seconds since the epoch by the store's clock."""


class Files(Protocol):
    """A flat place for files, shared with other processes. Methods may be called from any thread and may block.

    They raise OSError (FileNotFoundError, PermissionError …) or whatever the file system's own library raises.
    """

    @property
    def described(self) -> str:
        """Where it is, for people; without credentials."""
        ...

    def prepare(self) -> None:
        """Makes it ready for use, as far as that can be done."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Puts a file there, replacing what has the name. At any moment there is the whole old file, or the whole new
        one, or none, even if the process is killed; once this returns, it stays.
        """
        ...

    def read(self, name: str) -> bytes:
        """Returns a file's content. Raises FileNotFoundError if there is none."""
        ...

    def entries(self) -> Iterable[Entry]:
        """Returns the files, in any order, without those that are being written or were left half written."""
        ...

    def delete(self, name: str, *, written_before: float) -> bool:
        """Deletes a file unless it was written again at that time or later; returns whether it was deleted."""
        ...

    def clean(self) -> int:
        """Removes what killed processes left half written; returns how many files."""
        ...

    @property
    def signs(self) -> bool:
        """Whether files have URLs that can be signed."""
        ...

    def signed_url(self, name: str, seconds: float) -> str:
        """Returns a URL from which the file can be fetched for that long. Raises NotImplementedError if it has none."""
        ...
