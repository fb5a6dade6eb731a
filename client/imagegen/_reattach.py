"""When and where to take up a generation again whose stream broke. Knows no channel; shared by both clients."""

from __future__ import annotations

import time
from typing import Final

from imagegen._status import had_begun
from imagegen.errors import GenerationLostError, NotFoundError, ServiceUnavailableError, UnreachableError
from imagegen.v1 import imagegen_pb2 as pb

FIRST_PAUSE: Final = 0.2
"""Seconds before the first attempt; each further one in a row waits twice as long."""
LONGEST_PAUSE: Final = 5.0
"""Seconds."""
MAX_FAILURES: Final = 120
"""Attempts in a row that may bring no message where the call has no end, about ten minutes of pauses; gRPC's own
retries come on top. Elsewhere the time of the call is the bound."""

LOADING: Final = "LOADING"
"""Reason of a server that has yet to load its models, and so has no generation."""


def lasts(request: pb.GenerateImageRequest) -> bool:
    """Returns whether a generation goes on without its connection, so that its stream can be taken up again."""
    return request.on_disconnect == pb.ON_DISCONNECT_CONTINUE and not request.validate_only


class Reattachment:
    """How far a stream has come, and how long it may go on."""

    def __init__(self, seconds: float | None, after_sequence: int = 0) -> None:
        """Begins now; `seconds` is the time for everything, None if there is no end."""
        self._end = None if seconds is None else time.monotonic() + seconds
        self._failures = 0
        self._begun = bool(after_sequence)
        self._lost: UnreachableError | None = None
        self.last = after_sequence
        """Sequence of the last message that was received."""

    def received(self, response: pb.GenerateImageResponse) -> None:
        """Notes a message."""
        self.last = response.sequence
        self._begun = True
        self._failures = 0

    def remaining(self) -> float | None:
        """Returns the seconds left for the next call; never 0, so that the call itself says that its time is up."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)

    def pause(self, error: UnreachableError) -> float:
        """Returns the seconds to wait before the next attempt; raises `error` if there should be none.

        There is none for what never began: nobody knows then whether there is a generation, and gRPC has repeated the
        call itself. What began without a message that arrived is taken up from its first, and so is, once, what may
        have begun.
        """
        pause = min(FIRST_PAUSE * 2.0**self._failures, LONGEST_PAUSE)
        self._failures += 1
        begun = had_begun(error)
        self._begun = self._begun or begun is True
        may_be_there = self._begun or (begun is None and self._failures == 1)
        self._lost = error
        too_often = self._end is None and self._failures > MAX_FAILURES
        out_of_time = self._end is not None and time.monotonic() + pause >= self._end
        if not may_be_there or too_often or out_of_time:
            raise error
        return pause

    def refused(self, error: NotFoundError | ServiceUnavailableError) -> None:
        """Raises `GenerationLostError` if that is what a refusal means: the server had the generation, and lost it.

        One that does not know it, or is still loading, has been started anew or is another. Without a loss before it, a
        refusal means what it says. If the generation may never have begun, the loss itself is all that is known, and
        raised again.
        """
        loading = error.details.reason == LOADING
        if self._lost is None or not (loading or isinstance(error, NotFoundError)):
            return
        if not self._begun:
            raise self._lost from self._lost.__cause__
        raise GenerationLostError(
            f"the connection was lost ({self._lost.message}), and the server that answers now does not know the "
            "generation: its work is lost, unless another server has it",
            code=self._lost.code,
            request_id=error.request_id,
        ) from error
