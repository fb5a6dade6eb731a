"""JSON Web Tokens: whose they are, after everything about them has been verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import jwt

from imagegen_server.api.auth.caller import valid_tenant
from imagegen_server.api.auth.jwks import ALGORITHMS, SigningKeys
from imagegen_server.api.auth.limits import TenantLimits, parse_limits
from imagegen_server.errors import CredentialsReason, StartupError, Unauthenticated

LIMITS_CLAIM: Final = "imagegen_limits"
"""An object with the limits of the token's tenant."""
_TYPES: Final = ("JWT", "AT+JWT", "APPLICATION/AT+JWT")


@dataclass(kw_only=True, frozen=True, slots=True)
class TokenRules:
    """What a token must be like. Raises StartupError, naming all that makes no sense."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    """Of `jwks.ALGORITHMS`."""
    leeway: float = 30.0
    """Seconds by which clocks may differ."""
    tenant_claim: str = "sub"
    roles_claim: str = "roles"
    """A list of names, or one text with spaces between them, as OAuth's `scope`."""

    def __post_init__(self) -> None:
        wrong = [f"{name!r} is none of {', '.join(ALGORITHMS)}" for name in self.algorithms if name not in ALGORITHMS]
        if not self.algorithms:
            wrong.append("no algorithm is allowed")
        if wrong:
            raise StartupError(f"--jwt-algorithms: {'; '.join(wrong)}")


@dataclass(kw_only=True, frozen=True, slots=True)
class TokenIdentity:
    """What a token says of its bearer."""

    tenant: str
    roles: frozenset[str]
    limits: TenantLimits = field(default_factory=TenantLimits)


class JwtVerifier:
    """Verifies bearer tokens."""

    def __init__(self, keys: SigningKeys, rules: TokenRules) -> None:
        self._keys = keys
        self._rules = rules

    async def identity(self, token: str) -> TokenIdentity:
        """Returns what a token says. Raises `Unauthenticated`, or `Unavailable` while there are no keys."""
        algorithm, kid = self._header(token)
        key = await self._keys.find(kid, algorithm)
        if key is None:
            _refuse("no key is known for it")
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway,
                options={"require": ["exp", "iss", "aud"], "strict_aud": False},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(CredentialsReason.EXPIRED, "the token has expired") from None
        except Exception as error:  # noqa: BLE001 # whatever a hostile token makes the parsers raise
            _refuse(type(error).__name__)
        return self._identity(claims)

    def _header(self, token: str) -> tuple[str, str | None]:
        """Returns the algorithm and the key's name; neither is verified yet."""
        try:
            header = jwt.get_unverified_header(token)
        except Exception as error:  # noqa: BLE001 # as above
            _refuse(type(error).__name__)
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if algorithm not in self._rules.algorithms:
            _refuse("its algorithm is not allowed")
        if "crit" in header or not isinstance(kind, str) or kind.upper() not in _TYPES:
            _refuse("its header asks for what is not served")
        if kid is not None and not isinstance(kid, str):
            _refuse("its kid is no text")
        return algorithm, kid

    def _identity(self, claims: Mapping[str, Any]) -> TokenIdentity:
        times = [claims[name] for name in ("exp", "nbf", "iat") if name in claims]
        if not all(isinstance(when, int | float) and not isinstance(when, bool) for when in times):
            _refuse("a time in it is no number")
        tenant, roles = claims.get(self._rules.tenant_claim), claims.get(self._rules.roles_claim, [])
        if not isinstance(tenant, str) or not valid_tenant(tenant):
            _refuse(f"its claim {self._rules.tenant_claim} cannot name a tenant")
        if isinstance(roles, str):
            roles = roles.split()
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            _refuse(f"its claim {self._rules.roles_claim} is no list of names")
        limits = claims.get(LIMITS_CLAIM, {})
        if not isinstance(limits, dict):
            _refuse(f"its claim {LIMITS_CLAIM} is no object")
        wrong: list[str] = []
        found = parse_limits(limits, wrong)
        if wrong:
            _refuse(f"its claim {LIMITS_CLAIM} has a wrong limit")
        return TokenIdentity(tenant=tenant, roles=frozenset(roles), limits=found)


def _refuse(detail: str) -> NoReturn:
    raise Unauthenticated(CredentialsReason.INVALID, "the token is not valid", detail) from None
