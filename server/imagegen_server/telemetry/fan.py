"""Passing events to several listeners."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

OnError: TypeAlias = Callable[[str, Exception], None]
"""Hears the name of an event and what a listener raised at it."""


class Fan:
    """Passes events to several listeners; a subclass has their methods from the class that does nothing at them."""

    def __init__(self, listeners: Sequence[Any], nothing: type, on_error: OnError) -> None:
        """Args: listeners in order; the class that has all their events and does nothing; who hears of failures."""
        self._hearing = _hearing(listeners, nothing)
        self._on_error = on_error
        for event in self._hearing:  # in the place of the methods that do nothing
            setattr(self, event, partial(self._tell, event))

    def _tell(self, event: str, *told: Any) -> None:
        """Tells all. A listener's bug is reported and stops nothing."""
        for hear in self._hearing[event]:
            try:
                hear(*told)
            except Exception as error:  # noqa: BLE001 - whatever a listener raises
                self._on_error(event, error)


def _hearing(listeners: Sequence[Any], nothing: type) -> Mapping[str, Sequence[Callable[..., None]]]:
    """Returns the methods that do something at an event, in order, by the names of the events.

    A call that does nothing costs a microsecond or two, and some events come with every step.
    """
    heard: dict[str, Sequence[Callable[..., None]]] = {}
    for event in (name for name in vars(nothing) if not name.startswith("_")):
        methods = [getattr(listener, event) for listener in listeners]
        idle = getattr(nothing, event)
        heard[event] = tuple(method for method in methods if getattr(method, "__func__", None) is not idle)
    return heard
