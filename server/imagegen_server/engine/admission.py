"""How a generation is admitted, and what its caller is told to expect."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from imagegen_server.core import FallbackKind, GenerationRequest, Plan, RejectReason, Stage
from imagegen_server.engine.books import Books
from imagegen_server.engine.buffer import EventBuffer
from imagegen_server.engine.events import Accepted, StageStarted
from imagegen_server.engine.generation import Generation
from imagegen_server.engine.siblings import evaluations_of, run_apart, seconds_together
from imagegen_server.engine.waiting import Waiting
from imagegen_server.errors import AlreadyExists, DeadlineExceeded, ImageGenError, QueueFull, Unavailable

ESTIMATE_LIFETIME = 60.0
"""Seconds after which an estimate refuses nobody: were every caller refused, nothing would show that it is too high."""

_PLANS = 1024
"""How many different plans are kept, so that equal ones are one object."""

REJECT_REASONS: dict[type[ImageGenError], RejectReason] = {
    Unavailable: RejectReason.DRAINING,
    DeadlineExceeded: RejectReason.DEADLINE,
    QueueFull: RejectReason.QUEUE_FULL,
}
"""How refusals are counted; every other one is an error of the request: `invalid`."""


class Admission:
    """Takes generations into the ledger, or refuses them. Guarded by the engine's lock."""

    def __init__(self, books: Books, waiting: Waiting) -> None:
        self._ledger = books.ledger
        self._cost = books.cost
        self._observer = books.observer
        self._rows = books.rows
        self._settings = books.settings
        self._waiting = waiting
        self._numbers = 0
        """Generations admitted so far."""
        self._keys = 0
        """Jobs of them."""
        self._one_of_equal: Callable[[Plan], Plan] = lru_cache(maxsize=_PLANS)(lambda plan: plan)
        """Returns one object for equal plans, so that one estimate serves all who wait with them."""

    def admit(
        self,
        request: GenerationRequest,
        plan: Plan,
        *,
        fingerprint: bytes,
        deadline: float | None,
        now: float,
        on_ready: Callable[[], None],
    ) -> Generation:
        """Queues a generation and returns it. Arguments as for `Engine.submit`.

        Raises AlreadyExists, DeadlineExceeded or QueueFull if it must be refused.
        """
        self._check_id(request, fingerprint, now)
        if deadline is not None:
            self._check_deadline(request, plan, deadline - now, now)
        if self._ledger.full:
            raise QueueFull(self._settings.queue_capacity, self._waiting.retry_after(plan))
        generation = Generation(
            request,
            self._one_of_equal(plan),
            number=self._numbers,
            first_key=self._keys,
            fingerprint=fingerprint,
            deadline=deadline,
            now=now,
            buffer=EventBuffer(on_ready),
        )
        self._numbers += 1
        self._keys += request.num_images
        accepted = self.accepted(request, plan, now)
        generation.queue_position = accepted.queue_position
        generation.buffer.publish(accepted)
        generation.enter(Stage.QUEUED, now)
        generation.buffer.publish(StageStarted(stage=Stage.QUEUED, image_index=None, total_steps=0))
        self._observer.accepted(request, plan)
        self._observer.stage_started(request, Stage.QUEUED, None)
        self._ledger.add(generation)
        return generation

    def accepted(self, request: GenerationRequest, plan: Plan, now: float) -> Accepted:
        """Returns the plan with its estimates, for a generation about to join the queue."""
        position, wait = self._waiting.ahead(request, plan, now)
        return Accepted(
            plan=plan,
            queue_position=position,
            estimated_wait=wait,
            estimated_duration=self._alone(request, plan),
        )

    def _check_id(self, request: GenerationRequest, fingerprint: bytes, now: float) -> None:
        living = self._ledger.find(request.key)
        if living is not None:
            how = "running" if living.stop is None else "being stopped"
            raise AlreadyExists(request.request_id, f"a generation with this request_id is {how}")
        ended = self._ledger.ended(request.key, now)
        if ended is not None and ended.fingerprint != fingerprint:
            raise AlreadyExists(request.request_id, "this request_id was used with another request body")

    def _check_deadline(self, request: GenerationRequest, plan: Plan, remaining: float, now: float) -> None:
        """Refuses what cannot end in time even alone on the device; plans not measured of late are admitted."""
        droppable = Stage.REFINER if FallbackKind.REFINER_TO_BASE in request.allowed_fallbacks else None
        estimate = self._alone(request, plan, without=droppable)
        known = self._cost.knows(plan) and now - self._cost.learned_at(plan, without=droppable) <= ESTIMATE_LIFETIME
        if remaining <= 0 or (known and estimate > remaining):
            raise DeadlineExceeded(
                f"the deadline in {max(remaining, 0.0):.3f} s cannot be met: the device needs about {estimate:.3f} s",
                estimate=estimate,
                remaining=max(remaining, 0.0),
            )

    def _alone(self, request: GenerationRequest, plan: Plan, *, without: Stage | None = None) -> float:
        """Returns the device seconds of a generation that nobody else keeps from the device."""
        left = partial(evaluations_of, images=request.num_images, without=without)
        apart = run_apart(request, self._settings)
        return seconds_together(plan, left, self._cost, self._rows, apart=apart)
