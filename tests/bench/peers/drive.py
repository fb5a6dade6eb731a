"""Puts a load on a system: callers in a closed loop, or arrivals that wait for nobody. Times in seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bench.peers.asks import Ask


class Caller(Protocol):
    """A client of a system."""

    async def ask(self, ask: Ask, progressed: Callable[[], None]) -> bytes:
        """Returns the image file. Calls `progressed` when the caller first hears that steps were executed, if ever.

        Cancelling it closes the call, as when its user goes away.
        """
        ...


@dataclass(kw_only=True, slots=True)
class Heard:
    """What became of one request, as its caller saw it. Instants of the monotonic clock."""

    key: str
    sent: float
    progressed: float | None = None
    ended: float | None = None
    """When the image had arrived; None if the caller left before, or the call failed."""
    left: float | None = None
    error: str = ""

    @property
    def latency(self) -> float | None:
        """Seconds until the image; None without one."""
        return None if self.ended is None else self.ended - self.sent

    @property
    def first_progress(self) -> float | None:
        """Seconds until the caller knew that something was happening: the image itself if nothing was said before."""
        told = self.ended if self.progressed is None else self.progressed
        return None if told is None else told - self.sent

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-able form that `Heard(**data)` reads."""
        return asdict(self)


async def send(caller: Caller, ask: Ask) -> Heard:
    """Sends a request and returns what was heard; errors are in it."""
    heard = Heard(key=ask.key, sent=time.monotonic())

    def progressed() -> None:
        if heard.progressed is None:
            heard.progressed = time.monotonic()

    call = asyncio.ensure_future(caller.ask(ask, progressed))
    try:
        done, _ = await asyncio.wait([call], timeout=ask.leaves_after)
        if not done:
            heard.left = time.monotonic()
        elif call.exception() is None:
            heard.ended = time.monotonic()
            if not call.result():
                heard.ended, heard.error = None, "an empty file"
        else:
            heard.error = f"{type(call.exception()).__name__}: {call.exception()}"[:200]
    finally:
        if not call.done():
            call.cancel()
            with suppress(asyncio.CancelledError, Exception):  # what a call that was given up ends with tells nothing
                await call
    return heard


async def closed(caller: Caller, asks: Sequence[Ask], in_flight: int) -> list[Heard]:
    """Works through the list with `in_flight` callers that ask again at once; returns what was heard, in its order."""
    left = iter(enumerate(asks))
    heard: dict[int, Heard] = {}

    async def one() -> None:
        for index, ask in left:
            heard[index] = await send(caller, ask)

    await asyncio.gather(*(one() for _ in range(in_flight)))
    return [heard[index] for index in range(len(asks))]


async def arrivals(caller: Caller, asks: Sequence[Ask]) -> list[Heard]:
    """Sends each request at its instant, whatever has become of the others, and waits for all."""
    began = time.monotonic()

    async def one(ask: Ask) -> Heard:
        await asyncio.sleep(max(0.0, began + ask.at - time.monotonic()))
        return await send(caller, ask)

    return list(await asyncio.gather(*(one(ask) for ask in asks)))
