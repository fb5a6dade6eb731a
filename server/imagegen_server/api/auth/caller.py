"""Who is calling."""

from __future__ import annotations

import dataclasses
import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from imagegen_server import errors
from imagegen_server.api.auth.limits import TenantLimits
from imagegen_server.core import GenerationRequest, Refusal, RejectReason

TENANT_RULE: Final = "must be 1 to 128 letters, digits or . _ : / @ -"
_TENANT: Final = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")


def valid_tenant(name: str) -> bool:
    """Returns whether a text may name a tenant: `TENANT_RULE`."""
    return _TENANT.fullmatch(name) is not None


@dataclass(kw_only=True, frozen=True, slots=True)
class Caller:
    """Who makes a call, as its credentials say."""

    tenant: str
    """Whose generations these are; empty for a caller who showed no credentials."""
    roles: frozenset[str] = frozenset()
    limits: TenantLimits = field(default_factory=TenantLimits)
    key_id: str = ""
    """The public part of the API key that was shown; empty for other credentials."""

    @property
    def known(self) -> bool:
        """Whether good credentials were shown."""
        return bool(self.tenant)


ANONYMOUS: Final = Caller(tenant="")
"""A caller who showed no credentials."""

_current: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def of_caller(request: GenerationRequest, caller: Caller) -> GenerationRequest:
    """Returns a request as its caller's tenant's."""
    if not caller.known:
        return request
    weight = 1.0 if caller.limits.weight is None else caller.limits.weight
    return dataclasses.replace(request, tenant=caller.tenant, tenant_weight=weight, key_id=caller.key_id)


def current_caller() -> Caller:
    """Returns who makes the call that the current task serves."""
    return _current.get()


def refusal(request_id: str, model: str, reason: RejectReason, error: Exception) -> Refusal:
    """Returns what is told of a generation that `error` keeps out, by whoever makes the current task's call."""
    caller = current_caller()
    return Refusal(
        request_id=request_id,
        model=model,
        reason=reason,
        details=errors.details_of(error),
        tenant=caller.tenant,
        key_id=caller.key_id,
    )


def set_current_caller(caller: Caller) -> None:
    """Notes who makes the call that the current task serves."""
    _current.set(caller)
