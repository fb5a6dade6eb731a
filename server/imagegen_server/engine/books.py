"""The books of one engine: what its parts share, under one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable

from imagegen_server.core import EngineObserver
from imagegen_server.engine.estimate import CostModel
from imagegen_server.engine.ledger import Ledger
from imagegen_server.engine.rows import RowBudget
from imagegen_server.engine.settings import EngineSettings


class Books:
    """Which generations live, what turns cost, and how large batches may be; with who hears of it.

    `work` guards all of it. It is reentrant, tells those who wait that there may be something to do, and is never held
    while the device or an encoder works.
    """

    def __init__(self, observer: EngineObserver, settings: EngineSettings, clock: Callable[[], float]) -> None:
        """Begins empty; `clock` tells seconds, monotonic."""
        self.observer = observer
        self.settings = settings
        self.clock = clock
        self.work = threading.Condition(threading.RLock())
        self.cost = CostModel()
        self.rows = RowBudget(settings)
        self.ledger = Ledger(observer, self.cost, settings)
