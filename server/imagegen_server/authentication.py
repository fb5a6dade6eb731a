"""Puts together what lets calls in, from the settings: a part of the composition root."""

from __future__ import annotations

import structlog

from imagegen_server import api
from imagegen_server.core import EngineObserver, GenerationRequest, Outcome, Plan, Stage
from imagegen_server.errors import StartupError
from imagegen_server.settings import Settings


class QuotaEvents(EngineObserver):
    """Tells the quotas what the engine does."""

    def __init__(self, quotas: api.Quotas) -> None:
        self._quotas = quotas

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        """Passes it on."""
        self._quotas.accepted(request, plan)

    def steps_executed(self, request: GenerationRequest, stage: Stage, steps: int) -> None:
        """Passes it on."""
        self._quotas.steps_executed(request, steps)

    def ended(self, request: GenerationRequest, outcome: Outcome, elapsed: float, error: Exception | None) -> None:
        """Passes it on."""
        self._quotas.ended(request)


def tenant_limits(settings: Settings) -> api.TenantLimits:
    """Returns what a tenant may use that has no limits of its own."""
    return api.TenantLimits(
        max_in_flight=settings.tenant_max_in_flight or max(1, settings.queue_capacity // 2),
        steps_per_minute=settings.tenant_steps_per_minute,
        burst_steps=settings.tenant_burst_steps,
    )


async def authentication(
    settings: Settings, observer: api.EdgeObserver, log: structlog.stdlib.BoundLogger
) -> api.Authenticate | None:
    """Returns what lets calls in; None if everybody may make every call.

    Raises StartupError if something that was configured cannot be used. Keys that a URL does not give yet are no
    reason: tokens are refused with UNAVAILABLE until it does.
    """
    keys = None
    if settings.api_keys is not None:
        keys = api.RegisterFile(settings.api_keys, on_change=lambda what: log.warning("API keys changed", result=what))
    tokens = await _tokens(settings, log)
    policy = api.parse_policy(settings.auth_policy, authenticates=settings.authenticates)
    if not settings.authenticates and not settings.auth_policy:
        return None
    authenticator = api.Authenticator(keys=keys, tokens=tokens, certificates=settings.certificates_identify)
    return api.Authenticate(authenticator, policy, observer)


async def _tokens(settings: Settings, log: structlog.stdlib.BoundLogger) -> api.JwtVerifier | None:
    source, issuer, audience = settings.jwt_keys, settings.jwt_issuer, settings.jwt_audience
    if source is None or issuer is None or audience is None:
        return None
    rules = api.TokenRules(
        issuer=issuer,
        audience=audience,
        algorithms=tuple(filter(None, (name.strip() for name in settings.jwt_algorithms.split(",")))),
        leeway=settings.jwt_leeway,
        tenant_claim=settings.jwt_tenant_claim,
        roles_claim=settings.jwt_roles_claim,
    )
    keys = api.open_keys(
        source, refresh=settings.jwt_refresh, on_change=lambda what: log.warning("token keys changed", result=what)
    )
    wrong = await keys.load()
    if wrong and "://" not in source:
        raise StartupError(f"--jwt-keys cannot be used: {source} {wrong}")
    return api.JwtVerifier(keys, rules)
