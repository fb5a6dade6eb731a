"""What is remembered of generations that have ended, and for how long. Guarded by the engine's lock."""

from __future__ import annotations

from collections import OrderedDict

from imagegen_server.core import GenerationKey
from imagegen_server.engine.report import Report
from imagegen_server.engine.settings import EngineSettings


class Recent:
    """The last reports of generations, bounded by number and age.

    If there are too many, the tenant that has most of them loses its oldest: it cannot make the server forget those of
    a tenant that has fewer.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._reports: OrderedDict[GenerationKey, tuple[float, Report]] = OrderedDict()
        """With when they ended, oldest first."""
        self._tenants: dict[str, OrderedDict[GenerationKey, None]] = {}
        """Each tenant's, oldest first."""

    def put(self, report: Report, now: float) -> None:
        """Remembers a generation that has ended, in place of an earlier one of the same id."""
        key = report.request.key
        if key in self._reports:
            self._drop(key)
        self._reports[key] = (now, report)
        self._tenants.setdefault(report.request.tenant, OrderedDict())[key] = None
        self._forget(now)
        if len(self._reports) > self._settings.recent:
            most = max(self._tenants.values(), key=len)
            self._drop(next(iter(most)))

    def get(self, key: GenerationKey, now: float) -> Report | None:
        """Returns what is remembered of a generation; None if nothing is."""
        self._forget(now)
        found = self._reports.get(key)
        return None if found is None else found[1]

    def _forget(self, now: float) -> None:
        """Drops what is too old."""
        while self._reports:
            key, (when, _) = next(iter(self._reports.items()))
            if now - when < self._settings.recent_seconds:
                return
            self._drop(key)

    def _drop(self, key: GenerationKey) -> None:
        del self._reports[key]
        tenant, _ = key
        keys = self._tenants[tenant]
        del keys[key]
        if not keys:
            del self._tenants[tenant]
