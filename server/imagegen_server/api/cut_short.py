"""Whose doing the early end of a call was."""

from __future__ import annotations

from typing import Final

import grpc

from imagegen_server.api.handlers import AnyContext

DEADLINE_SLACK: Final = 0.1
"""Seconds before the server's idea of a deadline in which a cancelled call counts as one whose deadline passed."""
DEADLINE_ROUNDING: Final = 0.011
"""The same as a part of the time given: gRPC's core rounds timeouts up to two or three digits when it sends them."""


class CutShort:
    """Tells, once a call was cancelled from outside its handler, whether its deadline or its caller did it.

    A client counts from when it sent the call and cancels the stream itself when its time is up; the server counts
    from when it read the call, so a deadline looks like a cancellation shortly before the deadline.
    """

    def __init__(self, context: AnyContext) -> None:
        self._context = context
        self.given: float | None = context.time_remaining()
        """Seconds that the caller gave; None without a deadline."""

    def code(self) -> grpc.StatusCode:
        """Returns DEADLINE_EXCEEDED or CANCELLED."""
        remaining = self._context.time_remaining()
        if remaining is None or self.given is None:
            return grpc.StatusCode.CANCELLED
        slack = max(DEADLINE_SLACK, self.given * DEADLINE_ROUNDING)
        return grpc.StatusCode.DEADLINE_EXCEEDED if remaining <= slack else grpc.StatusCode.CANCELLED
