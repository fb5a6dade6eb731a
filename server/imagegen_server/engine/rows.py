"""How many UNet rows a batch may have."""

from __future__ import annotations

from imagegen_server.core import LatentShape, Stage
from imagegen_server.engine.settings import EngineSettings


class RowBudget:
    """The configured budget at each latent shape, lowered where the device ran out of memory. Never below 1."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._caps: dict[tuple[Stage, LatentShape], int] = {}

    def __call__(self, stage: Stage, shape: LatentShape) -> int:
        """Returns the most rows of a batch in a stage at a latent shape."""
        rows = self._settings.rows(shape)
        return min(rows, self._caps.get((stage, shape), rows))

    def cap(self, stage: Stage, shape: LatentShape, rows: int) -> int:
        """Lowers the budget for as long as the process lives, and returns it."""
        self._caps[stage, shape] = max(1, rows)
        return self._caps[stage, shape]
