"""A mixed load with faults, always the same calls in the same order: `await drive(address, fake_address, seconds)`.

Every kind of `kinds` is called at least once, however short the time; after that the mixes begin anew until it is over.
How a call ended is told as its caller saw it, in the words of the metrics' label `outcome`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from imagegen import AsyncClient, errors, types
from imagegen_server.core import Outcome
from imagegen_server.observe.kinds import FAKE_MIX, MODEL_MIX, Kind

CALLERS: Final = 3
"""Calls at one time to each server, the crowd not counted."""
_MOST_IN_A_CROWD: Final = 200
"""A server whose queue is longer than this sees no overflow."""
_PATIENCE: Final = 0.5
"""Seconds that a refused caller waits before its next call; without them the refusals would drown everything else."""
_PLUG: Final = "a plug {base:stall=1.0}"
"""Holds the fake device up while the crowd arrives, so that the queue fills."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Ended:
    """How one call ended."""

    server: str
    """The address that was called."""
    kind: str
    """Name of the kind."""
    outcome: Outcome
    """As the caller saw it."""
    code: str
    """Name of the gRPC status, such as RESOURCE_EXHAUSTED."""


async def drive(
    address: str, fake_address: str, seconds: float, on_end: Callable[[Ended], None] = lambda ended: None
) -> Counter[Outcome]:
    """Drives both servers for about `seconds` and returns how many calls ended in which way; every outcome is there.

    Args:
        address: host:port of a server on a real model.
        fake_address: host:port of a server with `kinds.FAKE_ARGUMENTS`.
        seconds: after which no call begins any more. Those under way are waited for, and the first round of each mix is
            finished, which takes longer on a slow machine.
        on_end: hears of each end.

    Cancelled, it cancels what is under way.
    """
    counts = Counter(dict.fromkeys(Outcome, 0))

    def count(ended: Ended) -> None:
        counts[ended.outcome] += 1
        on_end(ended)

    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for target, mix in ((address, MODEL_MIX), (fake_address, FAKE_MIX)):
            group.create_task(_Load(target, count).run(mix, until))
    return counts


class _Load:
    """The calls to one server."""

    def __init__(self, address: str, on_end: Callable[[Ended], None]) -> None:
        self._address = address
        self._on_end = on_end

    async def run(self, mix: Sequence[Kind], until: float) -> None:
        """Makes the calls of a mix, several at a time, until an instant of `time.monotonic`."""
        kinds = _repeated(mix, until)
        # refusals are part of what there is to see: nothing is retried
        async with AsyncClient(self._address, max_attempts=1) as client, asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._call_each(client, kinds))

    async def _call_each(self, client: AsyncClient, kinds: Iterator[Kind]) -> None:
        for kind in kinds:
            if kind.crowd:
                await self._crowd(client, kind)
            elif await self._call(client, kind) is Outcome.REJECTED:
                await asyncio.sleep(_PATIENCE)

    async def _crowd(self, client: AsyncClient, kind: Kind) -> None:
        """Makes a few more calls at once than there are places, behind one that holds the device up."""
        info = await client.server_info()
        plug = Kind(name=kind.name, prompt=_PLUG, outcome=kind.outcome, options=kind.options)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._call(client, plug))
            await asyncio.sleep(0.1)
            for _ in range(min(info.queue_capacity + 6, _MOST_IN_A_CROWD)):
                group.create_task(self._call(client, kind))

    async def _call(self, client: AsyncClient, kind: Kind) -> Outcome:
        """Makes one call, follows it to its end, reports and returns it."""
        accepted = False
        outcome, code = Outcome.CANCELLED, "CANCELLED"
        steps = 0
        try:
            async with aclosing(client.generate(kind.prompt, timeout=kind.timeout, **kind.options)) as events:
                async for event in events:
                    accepted = True
                    steps += isinstance(event, types.StepProgress)
                    if steps == kind.close_after:
                        break
                    if steps == kind.cancel_after and isinstance(event, types.StepProgress):
                        await client.cancel(event.request_id)
                    if isinstance(event, types.Completed):
                        outcome, code = Outcome.DEGRADED if event.fallbacks else Outcome.OK, "OK"
                    await asyncio.sleep(kind.pause)
        except errors.ImageGenError as error:
            outcome, code = outcome_of(error, accepted=accepted), error.code.name
        self._on_end(Ended(server=self._address, kind=kind.name, outcome=outcome, code=code))
        return outcome


def outcome_of(error: errors.ImageGenError, *, accepted: bool) -> Outcome:
    """Returns the outcome that a call's error stands for; `accepted` is whether the plan had come before it."""
    if not accepted and isinstance(
        error, errors.QueueFullError | errors.DeadlineExceededError | errors.ServiceUnavailableError
    ):
        return Outcome.REJECTED
    match error:
        case errors.InvalidRequestError() | errors.NotFoundError() | errors.PreconditionError():
            return Outcome.INVALID
        case errors.GenerationCancelledError():
            return Outcome.CANCELLED
        case errors.DeadlineExceededError():
            return Outcome.DEADLINE
        case _:
            return Outcome.ERROR


def _repeated(mix: Sequence[Kind], until: float) -> Iterator[Kind]:
    """Yields a whole mix, and goes on from its start while there is time."""
    yield from mix
    for kind in itertools.cycle(mix):
        if time.monotonic() >= until:
            return
        yield kind
