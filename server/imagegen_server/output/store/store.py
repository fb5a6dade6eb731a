"""The image store: names, verifies and limits what lies in a place for files."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from imagegen_server.core import EncodedImage
from imagegen_server.output.store import names
from imagegen_server.output.store.files import Files
from imagegen_server.output.store.observer import StoreObserver
from imagegen_server.output.store.retention import Held, Limits, Removal, look_through

_FULL_FOR: Final = 5.0
"""Seconds for which a store that was found full is taken to be full, before it is looked through again."""


_PASSES: Final = 3
"""How often what cannot be removed is replaced by other files, in one look through the store."""


class StoreFull(Exception):
    """The store's own limit leaves no room, since what it holds is too young to be removed."""


class Damaged(Exception):
    """A file is not what its name says."""


class ImageStore:
    """Images by their content, in a place that several processes may share. Methods may block; any thread may call."""

    def __init__(
        self, files: Files, limits: Limits, observer: StoreObserver, clock: Callable[[], float] = time.time
    ) -> None:
        """Args: where the files are; how many; who hears of removals; seconds since the epoch."""
        self.files = files
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._held: Held | None = None
        """As seen by the last sweep, with what was put since it began; None before the first."""
        self._put = Held()
        """What was put since the last sweep began."""
        self._pending = 0
        """Bytes that are being written."""
        self._full_until = 0.0

    def put(self, image: EncodedImage, parameters: bytes) -> str:
        """Keeps an image with its parameters; returns its name.

        The parameters are there before the image is. An image that is there already is written again, which makes it
        young and mends it if it was damaged.

        Raises StoreFull, or what the files raise.
        """
        name = names.image_name(image.sha256, image.mime_type)
        size = len(image.data) + len(parameters)
        written = False
        self._reserve(size)
        try:
            self.files.write(names.parameters_name(name), parameters)
            self.files.write(name, image.data)
            written = True
        finally:
            self._release(size, written=written)
        return name

    def get(self, name: str) -> bytes:
        """Returns an image, compared with its name.

        Raises FileNotFoundError if there is none of that name, Damaged, or what the files raise.
        """
        if not names.is_image(name):
            raise FileNotFoundError(name)
        data = self.files.read(name)
        if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
            raise Damaged(name)
        return data

    def sweep(self, wanted: int = 0) -> Held:
        """Looks through the store, removes what must go to have `wanted` bytes of room, and returns what is left.

        What cannot be removed stays, and others go in its place. Raises what the files raise, once everything that can
        be removed is. What is put meanwhile counts as well, until the next sweep twice if it was seen.
        """
        with self._sweeping:
            self.files.clean()
            now = self._clock()
            with self._lock:
                self._put = Held()
            entries = {entry.name: entry for entry in self.files.entries()}
            removed: list[Removal] = []
            stuck: dict[str, Exception] = {}
            for _ in range(_PASSES):
                known = len(stuck)
                held, removals = look_through(entries.values(), self._limits, now, wanted=wanted, stuck=stuck)
                for gone in self._remove_all(removals, now, stuck):
                    held = held.without(gone)
                    entries.pop(gone.name)
                    entries.pop(gone.parameters or "", None)
                    removed.append(gone)
                if len(stuck) == known:
                    break
            self._tell(removed)
            held = self._count(held)
            if stuck:
                raise next(iter(stuck.values()))
            self._observer.swept()
            return held

    def _count(self, seen: Held) -> Held:
        """Notes what a sweep has left, and returns it with what was put since it began."""
        with self._lock:
            self._held = seen.plus(self._put)
            self._observer.held(self._held.images, self._held.bytes)
            return self._held

    def _remove_all(self, removals: Sequence[Removal], now: float, stuck: dict[str, Exception]) -> list[Removal]:
        """Deletes what must go and returns what it deleted; puts into `stuck` what could not be, and why."""
        removed = []
        for removal in removals:
            try:
                if self._remove(removal, now):
                    removed.append(removal)
            except Exception as error:  # noqa: BLE001 - one that cannot be removed must not keep the others
                stuck[removal.name] = error
        return removed

    def _remove(self, removal: Removal, now: float) -> bool:
        """Deletes an image and then its parameters, unless it was written again meanwhile."""
        written_before = now - self._limits.min_age
        if not self.files.delete(removal.name, written_before=written_before):
            return False
        if removal.parameters is not None:
            self.files.delete(removal.parameters, written_before=written_before)
        return True

    def _tell(self, removed: Sequence[Removal]) -> None:
        """Tells the observer how many images went, and why; parameters without an image are not counted."""
        for reason, images in Counter(gone.reason for gone in removed if names.is_image(gone.name)).items():
            self._observer.removed(reason, images)

    def _reserve(self, size: int) -> None:
        """Sets so many bytes aside.

        Raises StoreFull if they would be too many even after a sweep, or what kept the sweep from making room.
        """
        most = self._limits.max_bytes
        if self._fits(size, most):
            return
        now = self._clock()
        if most is not None and size <= most and now >= self._full_until:
            failure: Exception | None = None
            with self._lock:
                wanted = size + self._pending
            try:
                if wanted <= most:  # else nothing that could be removed makes room
                    self.sweep(wanted)
            except Exception as error:  # noqa: BLE001 - raised below, unless there is room all the same
                self._observer.sweep_failed(error)
                failure = error
            if self._fits(size, most):
                return
            if failure is not None:
                raise failure
            self._full_until = now + _FULL_FOR
        raise StoreFull(f"{size} bytes more would be more than {most}")

    def _fits(self, size: int, most: int | None) -> bool:
        """Sets so many bytes aside if they are not too many, and returns whether they are not."""
        with self._lock:
            if most is not None and (self._held is None or self._held.bytes + self._pending + size > most):
                return False
            self._pending += size
            return True

    def _release(self, size: int, *, written: bool) -> None:
        """Counts what was set aside as held, if it was written."""
        with self._lock:
            self._pending -= size
            if not written:
                return
            image = Held(images=1, bytes=size)
            self._put = self._put.plus(image)
            if self._held is not None:
                self._held = self._held.plus(image)
                self._observer.held(self._held.images, self._held.bytes)
