"""What the errors of file systems mean for whoever wanted to keep an image."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

from imagegen_server.core import KeepFailure
from imagegen_server.output.store.store import StoreFull
from imagegen_server.output.store.workers import Busy

_NUMBERS: Final[Mapping[int, KeepFailure]] = {
    errno.ENOSPC: KeepFailure.FULL,
    errno.EDQUOT: KeepFailure.FULL,
    errno.EFBIG: KeepFailure.FULL,
    errno.EACCES: KeepFailure.DENIED,
    errno.EPERM: KeepFailure.DENIED,
    errno.EROFS: KeepFailure.DENIED,
    errno.ENOENT: KeepFailure.MISSING,
    errno.ENOTDIR: KeepFailure.MISSING,
    errno.ESTALE: KeepFailure.MISSING,
    errno.ETIMEDOUT: KeepFailure.TIMEOUT,
}
_KINDS: Final[Mapping[type[Exception], KeepFailure]] = {
    StoreFull: KeepFailure.FULL,
    Busy: KeepFailure.BUSY,
    TimeoutError: KeepFailure.TIMEOUT,
    PermissionError: KeepFailure.DENIED,
    FileNotFoundError: KeepFailure.MISSING,
}
"""Object stores raise these without a number."""


def failure_of(error: Exception) -> KeepFailure:
    """Returns the failure that names an error."""
    known = _NUMBERS.get(error.errno or 0) if isinstance(error, OSError) else None
    if known is not None:
        return known
    return next((failure for kind, failure in _KINDS.items() if isinstance(error, kind)), KeepFailure.ERROR)
