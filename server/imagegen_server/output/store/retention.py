"""Which images must go: the too old ones, and the oldest of too many bytes; never one that is still promised. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from imagegen_server.output.store import names
from imagegen_server.output.store.files import Entry

SLACK: Final = 0.9
"""The part of the most bytes that is left when there were too many, so that not every image begins a new sweep."""

Reason = Literal["age", "bytes"]


@dataclass(kw_only=True, frozen=True, slots=True)
class Limits:
    """How much is kept, and how long."""

    max_bytes: int | None = None
    """Most bytes of images and their parameters; None: no limit."""
    max_age: float | None = None
    """Seconds after which an image goes; None: never."""
    min_age: float = 600.0
    """Seconds for which an image stays, whatever the other limits say."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Held:
    """What the store has."""

    images: int = 0
    bytes: int = 0
    """Of images and their parameters."""

    def plus(self, other: Held) -> Held:
        """Returns both together."""
        return Held(images=self.images + other.images, bytes=self.bytes + other.bytes)

    def without(self, removal: Removal) -> Held:
        """Returns what is left after a removal."""
        return Held(images=self.images - names.is_image(removal.name), bytes=self.bytes - removal.size)


@dataclass(kw_only=True, frozen=True, slots=True)
class Removal:
    """An image, or parameters without an image, that must go."""

    name: str
    size: int
    """Bytes, of the parameters beside it too."""
    reason: Reason
    parameters: str | None
    """What goes with it."""


@dataclass(kw_only=True, frozen=True, slots=True)
class _Kept:
    """An image with what lies beside it."""

    image: Entry
    size: int
    parameters: str | None


def look_through(
    entries: Iterable[Entry], limits: Limits, now: float, *, wanted: int = 0, stuck: Collection[str] = ()
) -> tuple[Held, list[Removal]]:
    """Returns what is there, and what of it must go, the oldest first.

    Args:
        entries: every file; those that are no image and no parameters are left alone.
        limits: how much may stay.
        now: seconds since the epoch.
        wanted: bytes for which there is to be room, at most the limit.
        stuck: names of what cannot be removed.
    """
    images, parameters = {}, {}
    for entry in entries:
        if names.is_image(entry.name):
            images[entry.name] = entry
        elif names.is_parameters(entry.name):
            parameters[entry.name] = entry
    kept = [_with_parameters(image, parameters) for image in images.values()]
    beside = {item.parameters for item in kept}
    alone = [entry for name, entry in parameters.items() if name not in beside]
    kept.sort(key=lambda item: item.image.modified)
    held = Held(images=len(kept), bytes=sum(item.size for item in kept) + sum(entry.size for entry in alone))
    removals = [
        Removal(name=entry.name, size=entry.size, reason="age", parameters=None)
        for entry in alone
        if entry.modified < now - limits.min_age and entry.name not in stuck
    ]
    left = held.bytes - sum(gone.size for gone in removals)
    movable = [item for item in kept if item.image.name not in stuck]
    return held, removals + _too_old_or_many(movable, limits, now, left, wanted)


def _with_parameters(image: Entry, parameters: dict[str, Entry]) -> _Kept:
    beside = parameters.get(names.parameters_name(image.name))
    if beside is None:
        return _Kept(image=image, size=image.size, parameters=None)
    return _Kept(image=image, size=image.size + beside.size, parameters=beside.name)


def _too_old_or_many(kept: list[_Kept], limits: Limits, now: float, total: int, wanted: int) -> list[Removal]:
    """Returns the images that must go, from the oldest on."""
    removals: list[Removal] = []
    target = total
    if limits.max_bytes is not None and total + wanted > limits.max_bytes:
        target = min(int(limits.max_bytes * SLACK), limits.max_bytes - wanted)
    for item in kept:
        if item.image.modified >= now - limits.min_age:
            break  # and so are all that follow
        too_old = limits.max_age is not None and item.image.modified < now - limits.max_age
        if not too_old and total <= target:
            break
        reason: Reason = "age" if too_old else "bytes"
        removals.append(Removal(name=item.image.name, size=item.size, reason=reason, parameters=item.parameters))
        total -= item.size
    return removals
