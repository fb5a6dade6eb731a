"""The server with a ledger around its runner's calls; otherwise as it is. Takes `imagegen-server`'s arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.peers.ledger import VARIABLE, Ledger  # noqa: E402 - needs the path
from imagegen_server import models  # noqa: E402 - as above
from imagegen_server.__main__ import main  # noqa: E402 - as above


class Accounted:
    """A runner that accounts for every turn of the device."""

    def __init__(self, runner: Any, ledger: Ledger) -> None:
        self._runner = runner
        self._ledger = ledger

    def step(self, stage: Any, jobs: Sequence[Any]) -> Any:
        """See the runner's protocol."""
        with self._ledger.call([job.request.request_id for job in jobs]):
            return self._runner.step(stage, jobs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def accounted(*arguments: Any) -> Accounted:
    """Loads a runner and returns it with a ledger."""
    return Accounted(_load_runner(*arguments), Ledger(Path(os.environ[VARIABLE])))


_load_runner = models.load_runner

if __name__ == "__main__":
    models.load_runner = accounted  # type: ignore[assignment]
    sys.exit(main())
