"""The one thread that loads the models and drives the device.

torch keeps a thread pool for every thread that computes, so loading, warming up and every step run here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_busy: Final[set[threading.Thread]] = set()
"""Those of this process that load or work."""


def leave(status: int) -> None:
    """Ends the process with an exit status if a device thread still loads or works; returns at once if not.

    At its end Python stops daemon threads wherever they are, and inside torch, which is C++, that aborts the process.
    Nothing else is cut off: whoever calls this has ended all that the process began, and what was written is flushed.
    """
    if not _busy:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads any more
            stream.flush()
    os._exit(status)


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
        _busy.add(self._thread)
        self._thread.start()

    def _run(self) -> None:
        try:
            thing = self._load()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the event loop
            _busy.discard(self._thread)
            self._settle(self.loaded, None, error)
            self._settle(self.ended, None, None)
            return
        self._settle(self.loaded, thing, None)
        failure = None
        try:
            self._work(thing)
        except BaseException as error:  # noqa: BLE001 - as above
            failure = error
        _busy.discard(self._thread)
        self._settle(self.ended, None, failure)

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
