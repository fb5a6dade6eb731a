"""Fairness between tenants: whose turn it is on a contended device. Pure bookkeeping: no clock, no lock.

Every tenant has a virtual time: the device seconds that its jobs took part in, by rows, divided by its weight. Whoever
is furthest behind among those with work is served first (start-time fair queueing: Goyal, Vin and Cheng, 1996). A
tenant that comes back after a pause begins where the others are, so nobody saves up a claim by idling. With one tenant,
nothing of this has an effect.
"""

from __future__ import annotations

from collections.abc import Collection


class Shares:
    """How much of the device each tenant has had."""

    def __init__(self, quantum: float) -> None:
        """Args: seconds by which a tenant must be behind another before it is preferred, at least 0."""
        self._quantum = quantum
        self._times: dict[str, float] = {}
        self._busy: frozenset[str] = frozenset()

    def set_quantum(self, quantum: float) -> None:
        """Changes the seconds by which a tenant must be behind."""
        self._quantum = quantum

    def charge(self, tenant: str, weight: float, seconds: float) -> None:
        """Notes device time of a tenant that is above 0 in weight."""
        self._times[tenant] = self._times.get(tenant, 0.0) + seconds / weight

    def behind(self, tenants: Collection[str]) -> str | None:
        """Returns whom to serve first among the tenants with work on the device; None if it does not matter."""
        busy = frozenset(tenants)
        if busy != self._busy:
            self._enter(busy)
        if len(busy) < 2:
            return None
        poorest = min(busy, key=lambda tenant: (self._times[tenant], tenant))
        richest = max(self._times[tenant] for tenant in busy)
        return poorest if richest - self._times[poorest] > self._quantum else None

    def _enter(self, busy: frozenset[str]) -> None:
        """Lets newcomers begin where the others are, and forgets those who are not ahead of them."""
        staying = [self._times[tenant] for tenant in busy & self._busy]
        least = min(staying, default=0.0) if staying else max(self._times.values(), default=0.0)
        for tenant in busy - self._busy:
            self._times[tenant] = max(self._times.get(tenant, 0.0), least)
        floor = min((self._times[tenant] for tenant in busy), default=least)
        self._times = {tenant: time for tenant, time in self._times.items() if tenant in busy or time > floor}
        self._busy = busy
