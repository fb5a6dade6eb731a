"""Waiting for what has no event to wait for: not for ever, and with a word of what did not come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

SETTLE_SECONDS: Final = 60.0
"""How long a test waits before it calls something a failure; nothing is asserted about shorter times."""
_SHORTEST: Final = 0.002
_LONGEST: Final = 0.05
"""Seconds between two looks."""
_DETAIL: Final = "it did not come to hold"

Message = Callable[[], str] | str


def eventually(condition: Callable[[], bool], message: Message = _DETAIL) -> None:
    """Waits until a condition holds. Raises AssertionError with the message if it does not come to hold."""
    for pause in _pauses(condition, message):
        time.sleep(pause)


async def until(condition: Callable[[], bool], message: Message = _DETAIL) -> None:
    """Does what `eventually` does, while the event loop runs on."""
    for pause in _pauses(condition, message):
        await asyncio.sleep(pause)


def _pauses(condition: Callable[[], bool], message: Message) -> Iterator[float]:
    """Yields the seconds to the next look while a condition does not hold: a tenth of those that have passed."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > SETTLE_SECONDS:
            raise AssertionError(message if isinstance(message, str) else message())
        yield min(max(waited / 10, _SHORTEST), _LONGEST)
