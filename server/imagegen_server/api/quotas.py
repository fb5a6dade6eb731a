"""What tenants have in flight and how many steps they use: refusals that cost next to nothing.

A tenant's steps are a bucket that fills at its rate up to its burst. A generation is let in while there is anything in
the bucket, and takes all of its planned steps out of it: into debt, if need be, so that no request is too large to ever
be let in, and no rate is exceeded in the long run. Steps that were not executed are put back when it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from imagegen_server.api.auth.caller import Caller
from imagegen_server.api.auth.limits import TenantLimits
from imagegen_server.core import GenerationRequest, Plan
from imagegen_server.errors import QuotaExceeded, QuotaReason

IN_FLIGHT_RETRY: Final = 1.0
"""Seconds after which one of the tenant's generations may have ended."""
_MANY: Final = 4096
"""Tenants beyond which those that use nothing are forgotten."""


@dataclass(slots=True)
class _Account:
    """What one tenant has used."""

    limits: TenantLimits
    filled_at: float
    level: float
    """Steps in the bucket; below 0 in debt."""
    in_flight: int = 0

    @property
    def burst(self) -> float:
        """Steps in a full bucket; infinite without a rate."""
        rate = self.limits.steps_per_minute
        if rate is None:
            return float("inf")
        return rate if self.limits.burst_steps is None else self.limits.burst_steps

    def fill(self, now: float) -> None:
        """Adds what has come since the last time."""
        rate = self.limits.steps_per_minute
        self.level = self.burst if rate is None else min(self.burst, self.level + rate / 60 * (now - self.filled_at))
        self.filled_at = now


@dataclass(slots=True)
class _Charge:
    """A generation that has been charged for."""

    request: GenerationRequest
    planned: int
    executed: int = 0


class Quotas:
    """The accounts of all tenants. Thread-safe; callers without a tenant have no quota.

    `accepted`, `steps_executed` and `ended` are told as the engine tells its observer.
    """

    def __init__(self, defaults: TenantLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: limits of tenants that have none of their own; seconds, monotonic."""
        self._defaults = defaults
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        self._charges: dict[int, _Charge] = {}

    def check(self, caller: Caller) -> None:
        """Raises `QuotaExceeded` if the caller's tenant may not begin a generation now."""
        if not caller.known:
            return
        with self._lock:
            account = self._account(caller.tenant, caller.limits.over(self._defaults))
            most, rate = account.limits.max_in_flight, account.limits.steps_per_minute
            if most is not None and account.in_flight >= most:
                text = f"the tenant has {account.in_flight} generations in flight, the most that it may have"
                raise QuotaExceeded(QuotaReason.TENANT_CONCURRENCY, text, IN_FLIGHT_RETRY)
            if rate is not None and account.level <= 0:
                text = f"the tenant has used up its {rate:g} steps per minute"
                raise QuotaExceeded(QuotaReason.TENANT_STEP_RATE, text, (1 - account.level) * 60 / rate)

    def max_in_flight(self, caller: Caller) -> int | None:
        """Returns how many generations a caller's tenant may have in flight; None for as many as it wants."""
        return caller.limits.over(self._defaults).max_in_flight if caller.known else None

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        """Charges a tenant for a generation that was admitted."""
        if not request.tenant:
            return
        planned = sum(stage.steps for stage in plan.stages) * request.num_images
        with self._lock:
            account = self._accounts.get(request.tenant)
            if account is None:
                account = self._account(request.tenant, self._defaults)
            account.in_flight += 1
            account.level -= planned
            self._charges[id(request)] = _Charge(request, planned)

    def steps_executed(self, request: GenerationRequest, steps: int) -> None:
        """Notes steps that are not given back."""
        charge = self._charges.get(id(request))
        if charge is not None:
            charge.executed += steps

    def ended(self, request: GenerationRequest) -> None:
        """Gives back what was not executed."""
        with self._lock:
            charge = self._charges.pop(id(request), None)
            if charge is None:
                return
            account = self._accounts[request.tenant]
            account.in_flight -= 1
            account.level = min(account.burst, account.level + charge.planned - charge.executed)

    def _account(self, tenant: str, limits: TenantLimits) -> _Account:
        """Returns a tenant's account, filled up to now, with the limits that hold now."""
        now = self._clock()
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) >= _MANY:
                self._forget(now)
            account = self._accounts[tenant] = _Account(limits, now, 0.0)
            account.level = account.burst
        account.limits = limits
        account.fill(now)
        return account

    def _forget(self, now: float) -> None:
        for tenant, account in list(self._accounts.items()):
            account.fill(now)
            if not account.in_flight and account.level >= account.burst:
                del self._accounts[tenant]
