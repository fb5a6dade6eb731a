"""The one thread that loads the models and drives the device.

torch keeps a thread pool for every thread that computes, so loading, warming up and every step run here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class DeviceThread(Generic[T]):
    """Loads something, hands it to the event loop, and then works with it until the work returns.

    The thread is a daemon: a load that hangs in a driver cannot keep the process from exiting.
    """

    def __init__(self, load: Callable[[], T], work: Callable[[T], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._load = load
        self._work = work
        self.loaded: asyncio.Future[T] = self._loop.create_future()
        """What `load` returned or raised."""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when `work` returned or raised; also after a failed load."""
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Begins to load."""
        self._thread.start()

    def _run(self) -> None:
        try:
            thing = self._load()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the event loop
            self._settle(self.loaded, None, error)
            self._settle(self.ended, None, None)
            return
        self._settle(self.loaded, thing, None)
        try:
            self._work(thing)
        except BaseException as error:  # noqa: BLE001 - as above
            self._settle(self.ended, None, error)
        else:
            self._settle(self.ended, None, None)

    def _settle(
        self, future: asyncio.Future[T] | asyncio.Future[None], value: object, error: BaseException | None
    ) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)  # type: ignore[arg-type] # the two futures differ in what they carry

        try:
            self._loop.call_soon_threadsafe(settle)
        except RuntimeError:
            return  # the loop is closed: the process is exiting and nobody waits
