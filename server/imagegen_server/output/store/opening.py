"""From a setting to a place for files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from imagegen_server.errors import StartupError
from imagegen_server.output.store.bucket import ATOMIC, Bucket
from imagegen_server.output.store.directory import Directory
from imagegen_server.output.store.files import Files

__all__ = ["Files", "open_files"]

_LOCAL: Final = ("file", "local")
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def open_files(url: str) -> Files:
    """Returns the place that a path or an fsspec URL names; nothing is read or written yet.

    Raises StartupError if it can never work: an unknown or unsuitable protocol, a missing package, wrong options.
    """
    import fsspec  # noqa: PLC0415 - only where results are kept

    protocol = url.partition("://")[0] if "://" in url else "file"
    if protocol not in (*_LOCAL, *ATOMIC):
        known = ", ".join(f"{name}://" for name in (_LOCAL[0], *ATOMIC))
        raise StartupError(f"--store: {protocol}:// does not put files whole or not at all; use a directory or {known}")
    try:
        file_system, root = fsspec.url_to_fs(url, **_options(protocol))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f"pip install '.[server,{extra}]' in a checkout of ImageGen" if extra else f"pip install {error.name}"
        raise StartupError(f"--store: {protocol}:// needs a package that is not installed: {hint}") from error
    except Exception as error:
        raise StartupError(f"--store: {protocol}:// cannot be opened ({type(error).__name__})") from error
    if not root.strip("/"):
        raise StartupError(f"--store: {protocol}:// needs a {'directory' if protocol in _LOCAL else 'bucket'}")
    return Directory(Path(root)) if protocol in _LOCAL else Bucket(file_system, root)


def _options(protocol: str) -> dict[str, Any]:
    """Returns the options that keep listings true: other processes write and delete there as well."""
    return {} if protocol in (*_LOCAL, "memory") else {"use_listings_cache": False, "skip_instance_cache": True}
