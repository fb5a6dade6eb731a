"""Files in an object store, through fsspec. A put there is atomic: the object appears whole, and then stays."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from typing import Any, Final

from imagegen_server.output.store.files import Entry

ATOMIC: Final = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory")
"""The protocols whose file systems put an object whole or not at all."""

_TIMES: Final = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Where file systems say when a file was written, the most exact first."""


class Bucket:
    """The objects under one prefix. Implements `Files`."""

    def __init__(self, file_system: Any, root: str) -> None:
        """Args: an fsspec file system whose listings are not cached, and the bucket with its prefix."""
        self._files = file_system
        self._root = root.rstrip("/")

    @property
    def described(self) -> str:
        """The URL."""
        return str(self._files.unstrip_protocol(self._root))

    def prepare(self) -> None:
        """Does nothing: a prefix need not exist, and whose bucket it is decides its owner."""

    def write(self, name: str, data: bytes) -> None:
        """Puts the object."""
        self._files.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes:
        """Gets the object."""
        return bytes(self._files.cat_file(self._path(name)))

    def entries(self) -> Iterator[Entry]:
        """Lists the objects; a prefix that does not exist has none."""
        try:
            found = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return
        for facts in found:
            if facts.get("type") == "file":
                name = str(facts["name"]).rpartition("/")[2]
                yield Entry(name=name, size=int(facts["size"]), modified=_modified(facts))

    def delete(self, name: str, *, written_before: float) -> bool:
        """Looks at the age again right before the deletion; object stores cannot do both at once."""
        with contextlib.suppress(FileNotFoundError):
            if _modified(self._files.info(self._path(name))) < written_before:
                self._files.rm_file(self._path(name))
                return True
        return False

    def clean(self) -> int:
        """Does nothing: an interrupted put leaves no object."""
        return 0

    @property
    def signs(self) -> bool:
        """Whether the file system has a way; whether its credentials allow it shows when it is used."""
        from fsspec import AbstractFileSystem  # noqa: PLC0415 - loaded already, with the file system

        return getattr(type(self._files), "sign", AbstractFileSystem.sign) is not AbstractFileSystem.sign

    def signed_url(self, name: str, seconds: float) -> str:
        """Signs a URL with the credentials that the file system has."""
        return str(self._files.sign(self._path(name), expiration=int(seconds)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _modified(facts: Mapping[str, Any]) -> float:
    """Returns when an object was written; the far future if nobody says, so that it is never too old."""
    for name in _TIMES:
        value = facts.get(name)
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return float("inf")
