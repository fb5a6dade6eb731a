"""What the store tells the outside about its work. Implementations must return at once and never raise."""

from __future__ import annotations

import enum
from typing import Protocol

from imagegen_server.core import KeepFailure


class ReadOutcome(enum.StrEnum):
    """How the fetching of an image ended; the closed set of the `outcome` label."""

    OK = "ok"
    NOT_MODIFIED = "not_modified"
    """The caller has it already."""
    NOT_FOUND = "not_found"
    DAMAGED = "damaged"
    """The stored file is not what its name says."""
    FAILED = "failed"
    """The store did not answer."""


class StoreObserver(Protocol):
    """Receives the store's events, from any of its threads."""

    def written(self, failure: KeepFailure | None, error: Exception | None, seconds: float) -> None:
        """An image was kept, or was not, `seconds` after it was ready. Exactly once for each image."""
        ...

    def read(self, outcome: ReadOutcome, error: Exception | None) -> None:
        """An image was asked for over HTTP."""
        ...

    def held(self, images: int, held_bytes: int) -> None:
        """The store has so many images and bytes, as last seen by this process."""
        ...

    def removed(self, reason: str, images: int) -> None:
        """Images were removed for their age ("age") or because there are too many bytes ("bytes")."""
        ...

    def swept(self) -> None:
        """The store was looked through, and what had to go is gone: one of the sweeps at their interval."""
        ...

    def sweep_failed(self, error: Exception) -> None:
        """The store could not be looked through, or something could not be deleted."""
        ...
