"""Who waits for the device, in which order, and what they are told of it. Guarded by the engine's lock."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import islice

from imagegen_server.core import GenerationRequest, Plan, Stage
from imagegen_server.engine.books import Books
from imagegen_server.engine.events import QueueUpdate
from imagegen_server.engine.generation import Generation
from imagegen_server.engine.policy import weight

RETRY_AFTER_LEAST, RETRY_AFTER_MOST = 0.1, 30.0
"""Bounds in seconds of what a refused caller is told to wait."""


@dataclass(kw_only=True, eq=False, slots=True)
class _Place:
    """What decides when somebody begins."""

    request: GenerationRequest
    claim: float
    number: float
    """In which order they came."""
    remaining: float
    """Device seconds."""
    generation: Generation | None = None
    """None for somebody who only asks."""


class Waiting:
    """The generations that are queued, and whether there is room for them."""

    def __init__(self, books: Books) -> None:
        self._ledger = books.ledger
        self._cost = books.cost
        self._rows = books.rows
        self._settings = books.settings
        self._told_at = -math.inf

    def can_begin(self) -> bool:
        """Returns whether a queued generation may begin now."""
        if not self._ledger.queued or not self._room():
            return False
        full = self._full(self._held())
        return any(generation.request.tenant not in full for generation in self._ledger.queued.values())

    def wakes_at(self, now: float) -> float | None:
        """Returns when somebody who is queued is to hear of a deadline or of a new position; None if nobody is."""
        queued = self._ledger.queued.values()
        times = [generation.deadline for generation in queued if generation.deadline is not None]
        if any(self._news(now)):
            times.append(self._told_at + self._settings.queue_update_interval)
        return min(times, default=None)

    def next(self, now: float) -> Generation | None:
        """Returns the generation that begins now, None if none may.

        It is of the tenant that holds the least of the device; of several, that with most claim.
        """
        if not self._ledger.queued or not self._room():
            return None
        held = self._held()
        full = self._full(held)
        can = [generation for generation in self._ledger.queued.values() if generation.request.tenant not in full]
        first = next(_in_order(self._places(can, now), held), None)
        return None if first is None else first.generation

    def _room(self) -> bool:
        return (
            len(self._ledger.active) < self._settings.max_running
            and len(self._ledger.delivering) < self._settings.max_delivering
        )

    def _full(self, held: Counter[str]) -> set[str]:
        """Returns the tenants of which nobody else may begin, so that others can at once.

        No tenant gets the last place on the device, nor the last of those whose images may be on their way to slow
        readers.
        """
        kept = held + Counter(generation.request.tenant for generation in self._ledger.delivering.values())
        most, most_kept = self._settings.max_running - 1, self._settings.max_delivering - 1
        full = {tenant for tenant, count in kept.items() if held[tenant] >= most > 0 or count >= most_kept > 0}
        return full if self._settings.callers_told_apart else full - {""}

    def ahead(self, request: GenerationRequest, plan: Plan, now: float) -> tuple[int, float]:
        """Returns how many queued generations would begin before one that joins now, and how many seconds it waits."""
        remaining = self._cost.plan_seconds(plan) * request.num_images
        newcomer = self._place(request, remaining=remaining, age=0.0)
        outlook = enumerate(self._outlook(now, newcomer))
        position, work = next((position, work) for position, (place, work) in outlook if place is newcomer)
        return position, work / self._gain(plan)

    def tell(self, now: float) -> None:
        """Tells those whose position has changed since they heard of it, at most once in an interval."""
        if not self._ledger.queued or now - self._told_at < self._settings.queue_update_interval:
            return
        self._told_at = now
        gain = _once(self._gain)
        for generation, position, work in self._news(now):
            generation.queue_position = position
            wait = work / gain(generation.plan)
            generation.buffer.publish(QueueUpdate(position=position, estimated_wait=wait))

    def retry_after(self, plan: Plan) -> float:
        """Returns the estimated seconds between two generations like this one leaving the device."""
        return min(max(self._cost.plan_seconds(plan) / self._gain(plan), RETRY_AFTER_LEAST), RETRY_AFTER_MOST)

    def _news(self, now: float) -> Iterator[tuple[Generation, int, float]]:
        """Yields those whose position has changed since they heard of it, with it and with what `_outlook` says."""
        for position, (place, work) in enumerate(self._outlook(now)):
            if place.generation is not None and place.generation.queue_position != position:
                yield place.generation, position, work

    def _outlook(self, now: float, *newcomers: _Place) -> Iterator[tuple[_Place, float]]:
        """Yields all who wait as they will begin, with the device seconds until then if nobody shared a batch."""
        running = [generation.remaining(self._cost) for generation in self._ledger.active.values()]
        places = [*self._places(self._ledger.queued.values(), now), *newcomers]
        order = _in_order(places, self._held())
        for place in islice(order, max(self._settings.max_running - len(running), 0)):
            yield place, 0.0
            running.append(place.remaining)
        work = min(running, default=0.0) * len(running)
        for place in order:
            yield place, work
            work += place.remaining

    def _gain(self, plan: Plan) -> float:
        """Returns how many times faster generations like this one advance than alone, as many as may share a batch."""
        rows, shape = plan.stage(Stage.BASE).rows, plan.latent_shape
        most = min(self._rows(Stage.BASE, shape), rows * self._settings.max_running)
        return self._cost.batching_gain(Stage.BASE, shape, rows, most)

    def _held(self) -> Counter[str]:
        """Returns how many places on the device each tenant holds."""
        return Counter(generation.request.tenant for generation in self._ledger.active.values())

    def _place(
        self, request: GenerationRequest, *, remaining: float, age: float, generation: Generation | None = None
    ) -> _Place:
        return _Place(
            request=request,
            claim=weight(remaining=remaining, age=age, priority=request.priority),
            number=math.inf if generation is None else generation.number,
            remaining=remaining,
            generation=generation,
        )

    def _places(self, generations: Collection[Generation], now: float) -> list[_Place]:
        """Returns the places of queued generations."""
        seconds = _once(self._cost.plan_seconds)
        return [
            self._place(
                generation.request,
                remaining=seconds(generation.plan) * generation.request.num_images,
                age=now - generation.admitted_at,
                generation=generation,
            )
            for generation in generations
        ]


def _once(estimate: Callable[[Plan], float]) -> Callable[[Plan], float]:
    """Returns an estimate that is made once for each plan object, for one look at the queue: estimates change."""
    known: dict[int, float] = {}

    def estimated(plan: Plan) -> float:
        if id(plan) not in known:
            known[id(plan)] = estimate(plan)
        return known[id(plan)]

    return estimated


def _in_order(places: Iterable[_Place], held: Counter[str]) -> Iterator[_Place]:
    """Yields who begins first, and so on, if nobody comes or ends meanwhile. `held`: of the device, by tenant."""
    held = held.copy()
    lines: dict[str, list[_Place]] = {}
    for place in sorted(places, key=lambda place: (place.claim, -place.number)):
        lines.setdefault(place.request.tenant, []).append(place)  # each with its last first

    def entry(line: list[_Place]) -> tuple[float, float, float, list[_Place]]:
        first = line[-1]
        request = first.request
        return held[request.tenant] / request.tenant_weight, -first.claim, first.number, line

    heap = [entry(line) for line in lines.values()]
    heapify(heap)
    while heap:
        line = heap[0][-1]
        first = line.pop()
        yield first
        held[first.request.tenant] += 1
        if line:
            heapreplace(heap, entry(line))
        else:
            heappop(heap)
