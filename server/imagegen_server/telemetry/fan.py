"""Passing events to several listeners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

OnError: TypeAlias = Callable[[str, Exception], None]
"""Hears the name of an event and what a listener raised at it."""

_Observer = TypeVar("_Observer")


def fan_out(nothing: type[_Observer], listeners: Sequence[_Observer], on_error: OnError) -> _Observer:
    """Returns an observer that passes every event to all listeners; if one raises, to the others none the less.

    Args:
        nothing: the class with all of the events, whose methods do nothing; events have positional arguments.
        listeners: in the order in which they hear an event. Those that do not override its method are not asked: some
            events come with every step, and one that nobody hears is to cost no more than the method of `nothing`.
        on_error: hears of what a listener raised.
    """
    fan = nothing()
    for event in (name for name in dir(nothing) if not name.startswith("_")):
        methods = [getattr(listener, event) for listener in listeners]
        hearing = [method for method in methods if not _is(method, getattr(nothing, event))]
        if hearing:
            setattr(fan, event, _tell_all(event, hearing, on_error))
    return fan


def _is(method: Callable[..., None], function: Callable[..., None]) -> bool:
    """Returns whether a method of an object is a function of its class."""
    return getattr(method, "__func__", None) is function


def _tell_all(event: str, hearing: Sequence[Callable[..., None]], on_error: OnError) -> Callable[..., None]:
    """Returns what tells an event to all who hear it. A listener's bug is reported and stops nothing."""

    def tell(*told: Any) -> None:
        for hear in hearing:
            try:
                hear(*told)
            except Exception as error:  # noqa: BLE001 - whatever a listener raises
                on_error(event, error)

    return tell
