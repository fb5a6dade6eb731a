"""Which generations live, where they are, and which ids were used. Guarded by the engine's lock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain

from imagegen_server.core import GenerationState, Outcome
from imagegen_server.engine.generation import Generation, final_state, outcome_of
from imagegen_server.engine.observer import Observer, QueueState


class Ledger:
    """Every admitted generation is in exactly one of `queued`, `active` and `delivering` until it has ended."""

    def __init__(self, observer: Observer, *, capacity: int, recent: int) -> None:
        self.queued: dict[str, Generation] = {}
        """Waiting for their first turn, oldest first."""
        self.active: dict[str, Generation] = {}
        """On the device."""
        self.delivering: dict[str, Generation] = {}
        """Off the device; images are being encoded or sent."""
        self._observer = observer
        self._capacity = capacity
        self._recent_limit = recent
        self._recent: OrderedDict[str, tuple[bytes, GenerationState]] = OrderedDict()

    @property
    def live(self) -> int:
        """Generations that have not ended."""
        return len(self.queued) + len(self.active) + len(self.delivering)

    @property
    def full(self) -> bool:
        """Whether nothing more may be queued."""
        return len(self.queued) >= self._capacity

    def __iter__(self) -> Iterator[Generation]:
        return chain(self.queued.values(), self.active.values(), self.delivering.values())

    def state(self) -> QueueState:
        """Returns how full the engine is."""
        running = len(self.active) + len(self.delivering)
        return QueueState(queued=len(self.queued), running=running, capacity=self._capacity)

    def find(self, request_id: str) -> Generation | None:
        """Returns the living generation of an id."""
        return self.queued.get(request_id) or self.active.get(request_id) or self.delivering.get(request_id)

    def ended(self, request_id: str) -> tuple[bytes, GenerationState] | None:
        """Returns the fingerprint and the terminal state of a recent generation."""
        return self._recent.get(request_id)

    def add(self, generation: Generation) -> None:
        """Queues a generation."""
        self.queued[generation.request.request_id] = generation
        self._observer.queue_changed(self.state())

    def start(self, generation: Generation) -> None:
        """Moves a generation from the queue to the device."""
        self.active[generation.request.request_id] = self.queued.pop(generation.request.request_id)
        generation.state = GenerationState.RUNNING
        self._observer.queue_changed(self.state())

    def deliver(self, generation: Generation) -> None:
        """Moves a generation off the device."""
        self.delivering[generation.request.request_id] = self.active.pop(generation.request.request_id)

    def end(self, generation: Generation, error: Exception | None, now: float) -> None:
        """Ends a generation; nothing happens if it has ended."""
        if generation.ended:
            return
        request_id = generation.request.request_id
        outcome = outcome_of(error, degraded=bool(generation.fallbacks))
        stage = generation.stage
        generation.state = final_state(outcome)
        for place in (self.queued, self.active, self.delivering):
            place.pop(request_id, None)
        self._recent.pop(request_id, None)
        self._recent[request_id] = (generation.fingerprint, generation.state)
        while len(self._recent) > self._recent_limit:
            self._recent.popitem(last=False)
        if outcome is Outcome.CANCELLED:
            self._observer.cancelled(generation.request, stage, now - generation.stop_asked_at)
        lost = generation.device_seconds - generation.wasted_device_seconds  # that part was told when it was given up
        if error is not None and lost > 0:
            self._observer.wasted(outcome, lost)
        self._observer.used(generation.request, outcome, generation.usage())
        self._observer.ended(generation.request, outcome, now - generation.admitted_at, error)
        self._observer.queue_changed(self.state())
