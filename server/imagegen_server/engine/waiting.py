"""Who waits for the device, in which order, and what they are told of it. Guarded by the engine's lock."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imagegen_server.core import GenerationRequest, Plan, Stage
from imagegen_server.engine.estimate import CostModel
from imagegen_server.engine.events import QueueUpdate
from imagegen_server.engine.generation import Generation
from imagegen_server.engine.ledger import Ledger
from imagegen_server.engine.policy import weight
from imagegen_server.engine.rows import RowBudget
from imagegen_server.engine.settings import EngineSettings

RETRY_AFTER_LEAST, RETRY_AFTER_MOST = 0.1, 30.0
"""Bounds in seconds of what a refused caller is told to wait."""


@dataclass(kw_only=True, frozen=True, slots=True)
class _Place:
    """What decides when somebody begins."""

    tenant: str
    tenant_weight: float
    claim: float
    number: float
    """In which order they came."""
    remaining: float
    """Device seconds."""
    generation: Generation | None = None
    """None for somebody who only asks."""


class Waiting:
    """The generations that are queued, and whether there is room for them."""

    def __init__(self, ledger: Ledger, cost: CostModel, rows: RowBudget, settings: EngineSettings) -> None:
        self._ledger = ledger
        self._cost = cost
        self._rows = rows
        self._settings = settings
        self._told_at = -math.inf

    def can_begin(self) -> bool:
        """Returns whether a queued generation may begin now."""
        full = self._full()
        return self._room() and any(
            generation.request.tenant not in full for generation in self._ledger.queued.values()
        )

    def next(self, now: float) -> Generation | None:
        """Returns the generation that begins now, None if none may.

        It is of the tenant that holds the least of the device; of several, that with most claim.
        """
        if not self._ledger.queued or not self._room():
            return None
        full = self._full()
        can = (generation for generation in self._ledger.queued.values() if generation.request.tenant not in full)
        order = _in_order([self._place_of(generation, now) for generation in can], self._held())
        return order[0].generation if order else None

    def _room(self) -> bool:
        return (
            len(self._ledger.active) < self._settings.max_running
            and len(self._ledger.delivering) < self._settings.max_delivering
        )

    def _full(self) -> set[str]:
        """Returns the tenants of which nobody else may begin, so that others can at once.

        No tenant gets the last place on the device, nor the last of those whose images may be on their way to slow
        readers.
        """
        held = self._held()
        kept = held + Counter(generation.request.tenant for generation in self._ledger.delivering.values())
        most, most_kept = self._settings.max_running - 1, self._settings.max_delivering - 1
        return {
            tenant for tenant, count in kept.items() if tenant and (held[tenant] >= most > 0 or count >= most_kept > 0)
        }

    def ahead(self, request: GenerationRequest, plan: Plan, now: float) -> tuple[int, float]:
        """Returns how many queued generations would begin before one that joins now, and how many seconds it waits."""
        remaining = self._cost.plan_seconds(plan) * request.num_images
        newcomer = self._place(request, remaining=remaining, age=0.0)
        order = self._order(now, newcomer)
        position = order.index(newcomer)
        return position, self._seconds(order[:position], plan)

    def tell(self, now: float) -> None:
        """Tells those whose position has changed since they heard of it, at most once in an interval."""
        if not self._ledger.queued or now - self._told_at < self._settings.queue_update_interval:
            return
        self._told_at = now
        order = self._order(now)
        for position, place in enumerate(order):
            generation = place.generation
            if generation is not None and generation.queue_position != position:
                generation.queue_position = position
                wait = self._seconds(order[:position], generation.plan)
                generation.buffer.publish(QueueUpdate(position=position, estimated_wait=wait))

    def retry_after(self, plan: Plan) -> float:
        """Returns the estimated seconds between two generations like this one leaving the device."""
        return min(max(self._cost.plan_seconds(plan) / self._gain(plan), RETRY_AFTER_LEAST), RETRY_AFTER_MOST)

    def _seconds(self, ahead: Sequence[_Place], plan: Plan) -> float:
        """Returns the estimated seconds until a generation with those before it gets its first turn."""
        active = [generation.remaining(self._cost) for generation in self._ledger.active.values()]
        free = self._settings.max_running - len(active)
        if len(ahead) < free or not active:
            return 0.0
        queued = sum(place.remaining for place in ahead[free:])
        return (min(active) * len(active) + queued) / self._gain(plan)

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
            tenant=request.tenant,
            tenant_weight=request.tenant_weight,
            claim=weight(remaining=remaining, age=age, priority=request.priority),
            number=math.inf if generation is None else generation.number,
            remaining=remaining,
            generation=generation,
        )

    def _place_of(self, generation: Generation, now: float) -> _Place:
        remaining, age = generation.remaining(self._cost), now - generation.admitted_at
        return self._place(generation.request, remaining=remaining, age=age, generation=generation)

    def _order(self, now: float, *newcomers: _Place) -> list[_Place]:
        places = [self._place_of(generation, now) for generation in self._ledger.queued.values()]
        return _in_order([*places, *newcomers], self._held())


def _in_order(places: Iterable[_Place], held: Counter[str]) -> list[_Place]:
    """Returns who begins first, and so on, if nobody comes or ends meanwhile. `held`: of the device, by tenant."""
    lines: dict[str, list[_Place]] = {}
    for place in sorted(places, key=lambda place: (place.claim, -place.number)):
        lines.setdefault(place.tenant, []).append(place)  # each with its last first
    held, order = held.copy(), list[_Place]()
    while lines:
        first = max(
            (line[-1] for line in lines.values()),
            key=lambda place: (-held[place.tenant] / place.tenant_weight, place.claim, -place.number),
        )
        order.append(first)
        held[first.tenant] += 1
        lines[first.tenant].pop()
        if not lines[first.tenant]:
            del lines[first.tenant]
    return order
