"""Removes what must go from the store, from time to time, on a thread of its own."""

from __future__ import annotations

import threading

from imagegen_server.output.store.observer import StoreObserver
from imagegen_server.output.store.store import ImageStore


class Sweeper:
    """Sweeps at once and then every `interval` seconds. A sweep that fails is told, and tried again the next time."""

    def __init__(self, store: ImageStore, observer: StoreObserver, interval: float) -> None:
        """Args: what to sweep; who hears of failures; seconds, above 0."""
        self._store = store
        self._observer = observer
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-sweep", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends before the next sweep; does not wait for one under way, which may hang."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            try:
                self._store.sweep()
            except Exception as error:  # noqa: BLE001 - it is told; a store that fails now may work later
                self._observer.sweep_failed(error)
            if self._stopped.wait(self._interval):
                return
