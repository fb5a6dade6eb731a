"""Keeps the images of generations, off everybody's way, and says in time where they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from imagegen_server.core import EncodedImage, GenerationRequest, KeepFailure
from imagegen_server.output.store.failures import failure_of
from imagegen_server.output.store.observer import StoreObserver
from imagegen_server.output.store.sidecar import sidecar
from imagegen_server.output.store.store import ImageStore
from imagegen_server.output.store.workers import Workers


@dataclass(kw_only=True, frozen=True, slots=True)
class KeeperSettings:
    """What the results say of where they are."""

    timeout: float = 5.0
    """Seconds that an image may take to be kept, before its caller is told that it was not."""
    url_base: str = ""
    """What an image's name is put behind; empty: no URLs, unless they are signed."""
    signed_seconds: float | None = None
    """Seconds for which URLs that the store signs are good; None: they are not signed."""


class Keeper:
    """The engine's `Keep`: an image has a URL only once it can be fetched from there."""

    def __init__(self, store: ImageStore, workers: Workers, settings: KeeperSettings, observer: StoreObserver) -> None:
        """Args: where images are kept; who writes; what is said of them; who hears how it went."""
        self._store = store
        self._workers = workers
        self._settings = settings
        self._observer = observer

    def __call__(
        self,
        image: EncodedImage,
        request: GenerationRequest,
        image_index: int,
        *,
        refined: bool,
        patience: float,
        done: Callable[[str, KeepFailure | None], None],
    ) -> None:
        """Begins to keep an image; returns at once and never raises. See the engine's `Keep`."""
        began = time.monotonic()

        def work() -> str:
            parameters = sidecar(image, request, image_index, refined=refined, created=time.time())
            return self._url(self._store.put(image, parameters))

        def told(url: str | None, error: Exception | None) -> None:
            failure = None if error is None else failure_of(error)
            self._observer.written(failure, error, time.monotonic() - began)
            done(url or "", failure)

        self._workers.submit(work, patience=max(min(self._settings.timeout, patience), 0.0), done=told)

    def _url(self, name: str) -> str:
        if self._settings.signed_seconds is not None:
            return self._store.files.signed_url(name, self._settings.signed_seconds)
        return f"{self._settings.url_base}/{name}" if self._settings.url_base else ""
