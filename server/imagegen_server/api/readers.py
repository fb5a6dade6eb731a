"""Who is read to beyond the generations in flight, counted for each tenant and bounded.

A call that watches a generation costs no device, but the transport holds what it was given and has not read. So does a
call that was given up: gRPC cannot take a message back, and holds it until the caller reads it or its connection is
gone, however long that takes. Both count here until then. Who has too much of it is refused what would add to it;
generations that were admitted before may still add theirs.

Everything here belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from imagegen_server.errors import QuotaExceeded, QuotaReason

PER_GENERATION: Final = 4
"""Calls that a tenant may read with for each generation that it may have in flight."""
AT_LEAST: Final = 16
"""Calls that every tenant may read with."""
ANSWER: Final = PER_GENERATION
"""As how many a RenderImage counts: its answer has all of the images, where a stream has one chunk."""
RETRY: Final = 1.0
"""Seconds after which one of them may have read."""


class Readers:
    """Counts calls that are read to."""

    def __init__(self, most: int, *, callers_told_apart: bool) -> None:
        """`most` is how many there may be in all; no tenant may have more than half of them.

        Nor may callers without one where callers are told apart; else nobody has a tenant, and all may have them all.
        """
        self._most = most
        self._told_apart = callers_told_apart
        self._counts = Counter[str]()
        self._left = set[asyncio.Task[None]]()

    def check(self, tenant: str, in_flight: int | None, weight: int = 1) -> None:
        """Raises `QuotaExceeded` if `weight` more would be too many, of a tenant or in all.

        `in_flight` is how many generations the tenant may have in flight; None for as many as it wants.
        """
        mine, all_ = self._counts[tenant], self._counts.total()
        if self._told_apart and mine + weight > self._most_of(in_flight):
            text = f"the tenant has {mine} calls that read, or left unread what they were sent; it may have no more"
            raise QuotaExceeded(QuotaReason.TENANT_READERS, text, RETRY)
        if all_ + weight > self._most:
            text = f"{all_} calls read, or left unread what they were sent; there may be no more"
            raise QuotaExceeded(QuotaReason.READERS, text, RETRY)

    @contextmanager
    def reading(self, tenant: str, weight: int = 1) -> Iterator[None]:
        """Counts a call as `weight` meanwhile."""
        self._counts[tenant] += weight
        try:
            yield
        finally:
            self._leave(tenant, weight)

    def left(self, tenant: str, weight: int, status: asyncio.Task[None]) -> None:
        """Counts a call that was given up as `weight` until `status`, the sending of its status, is done."""

        def done(task: asyncio.Task[None]) -> None:
            self._left.discard(task)
            self._leave(tenant, weight)
            if not task.cancelled():
                task.exception()  # that the caller is gone is no news

        self._counts[tenant] += weight
        self._left.add(status)
        status.add_done_callback(done)

    def _most_of(self, in_flight: int | None) -> int:
        half = max(1, self._most // 2)
        return half if in_flight is None else min(half, max(AT_LEAST, PER_GENERATION * in_flight))

    def _leave(self, tenant: str, weight: int) -> None:
        self._counts[tenant] -= weight
        if not self._counts[tenant]:
            del self._counts[tenant]
