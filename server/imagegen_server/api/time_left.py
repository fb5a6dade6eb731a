"""A call ends shortly before its deadline, so that its caller learns how far its generation came.

At the deadline itself gRPC ends a call on both sides, each by its own clock, with a status that has no details.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from imagegen_server import errors
from imagegen_server.core import Stage
from imagegen_server.engine import Report

EARLY: Final = 0.05
"""Seconds before its deadline at which a call ends: the status needs a turn of a busy server, and its way."""
MOST: Final = 0.1
"""Part of the time given that this is at most."""
LAST: Final = 0.2
"""Part of it that the status gets of a generation that has left the device: its files only have to be made and sent."""
OFF_DEVICE: Final = frozenset({Stage.IMAGE_ENCODE, Stage.SEND})

Late = Callable[[], Exception | None]
"""Returns what a call ends with whose time is up; None if it is to go on."""


class TimeLeft:
    """The time that a call has, from now on."""

    def __init__(self, given: float | None, early: float = EARLY) -> None:
        """Begins to count. `given` is in seconds, None without a deadline; `early` stands in for `EARLY`."""
        self.device_until: float | None = None
        """When the device must be done, by the monotonic clock; None without a deadline."""
        self._until = 0.0
        if given is not None:
            deadline, margin = time.monotonic() + given, max(min(early, MOST * given), 0.0)
            self.device_until, self._until = deadline - margin, deadline - LAST * margin

    @asynccontextmanager
    async def ends(self, late: Late) -> AsyncIterator[None]:
        """Ends what is done within when the time is up, and raises what `late` says then.

        That is asked when the device must be done, and once more if the generation had left the device by then.
        """
        if self.device_until is None:
            yield
            return
        loop = asyncio.get_running_loop()
        error: Exception | None = None
        timer: asyncio.TimerHandle

        def look(*, last: bool) -> None:
            nonlocal error, timer
            error = late()
            if error is None:
                return
            if not last and isinstance(error, errors.DeadlineExceeded) and error.stage in OFF_DEVICE:
                timer = loop.call_later(self._until - time.monotonic(), lambda: look(last=True))
            else:
                timeout.reschedule(loop.time())

        timer = loop.call_later(self.device_until - time.monotonic(), lambda: look(last=False))
        try:
            async with asyncio.timeout(None) as timeout:
                yield
        except TimeoutError:
            if error is None or not timeout.expired():
                raise
            raise error from None
        finally:
            timer.cancel()


def not_begun() -> errors.DeadlineExceeded:
    """Returns what a call ends with that waited for the end of its request's last attempt."""
    text = "the deadline passed while the last attempt with this request_id was being stopped"
    return errors.DeadlineExceeded(text, stage=Stage.QUEUED, step=0)


def where_it_is(report: Report | None, *, stops: bool) -> Exception:
    """Returns what a call ends with whose time is up: the stage and the step that its generation has reached.

    Or what the generation fails with, if it does. `report` is None if nothing is known of it; `stops` says whether it
    ends with the call.
    """
    if report is None:
        return errors.DeadlineExceeded("the deadline of the call passed")
    if report.finished.error is not None:
        return report.finished.error
    if stops:
        return errors.deadline_passed(report.stage, report.step)
    if report.ended is None:
        where = f"in stage {report.stage} after {report.step} steps"
        text = f"the deadline of the call passed; the generation goes on, {where}"
    else:
        text = "the deadline of the call passed; the generation has completed"
    return errors.DeadlineExceeded(text, stage=report.stage, step=report.step)
