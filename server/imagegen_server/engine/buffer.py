"""The events of one generation between the engine and its caller. Bounded, whatever the caller's speed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from imagegen_server.engine.events import Event, Numbered, PreviewReady, QueueUpdate, StepProgress

_QUEUE: Final = ("queue",)


class EventBuffer:
    """Holds events until they are taken. Publishing never blocks on the reader.

    Progress of one image in one stage, previews of one image and queue updates replace their predecessor while it has
    not been taken; everything else is kept, and its number is bounded by the plan. Safe for several writers and one
    reader.
    """

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._pending: dict[object, Numbered] = {}
        self._sequence = 0
        self._on_ready = on_ready

    def publish(self, event: Event) -> None:
        """Adds an event and wakes the reader if it may be asleep."""
        with self._lock:
            was_empty = not self._pending
            self._sequence += 1
            key = _coalescing_key(event) or self._sequence
            self._pending.pop(key, None)
            self._pending[key] = Numbered(sequence=self._sequence, time=time.time(), event=event)
        if was_empty:
            self._on_ready()

    def take(self) -> list[Numbered]:
        """Returns and forgets the pending events, in order."""
        with self._lock:
            taken = list(self._pending.values())
            self._pending.clear()
        return taken


def _coalescing_key(event: Event) -> tuple[object, ...] | None:
    """Returns what an event replaces; None if it must not be lost."""
    if isinstance(event, StepProgress):
        return ("step", event.stage, event.image_index)
    if isinstance(event, PreviewReady):
        return ("preview", event.image_index)
    if isinstance(event, QueueUpdate):
        return _QUEUE
    return None
