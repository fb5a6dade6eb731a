"""API keys: how they are made, how a file of hashed ones is read, and whose a key is.

A key is `imagegen_ID_SECRET`: 12 hexadecimal digits that name it and 256 random bits. The file has SHA-256 of the whole
key. A slow, salted hash protects what people choose; nobody can search 2^256 keys, and a slow one would let anybody
keep this server busy with wrong keys (docs/decisions).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from imagegen_server.api.auth.caller import TENANT_RULE, Caller, valid_tenant
from imagegen_server.api.auth.limits import LIMIT_NAMES, TenantLimits, parse_limits
from imagegen_server.errors import CredentialsReason, Unauthenticated

_KEY: Final = re.compile(r"imagegen_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_HASH: Final = re.compile(r"sha256:([0-9a-f]{64})")
_ROLE: Final = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_NOBODY: Final = bytes(32)
_KEY_FIELDS: Final = frozenset({"id", "hash", "tenant", "roles", "expires"})
_TENANT_FIELDS: Final = frozenset({"tenant", "roles"}) | LIMIT_NAMES


@dataclass(kw_only=True, frozen=True, slots=True)
class KeyRecord:
    """One key of the file."""

    digest: bytes
    tenant: str
    roles: frozenset[str]
    expires: float | None
    """Unix time; None for never."""


@dataclass(kw_only=True, frozen=True, slots=True)
class TenantRecord:
    """What the file says of a tenant."""

    roles: frozenset[str] = frozenset()
    limits: TenantLimits = field(default_factory=TenantLimits)


@dataclass(kw_only=True, frozen=True, slots=True)
class Register:
    """Everything that a file of keys and tenants says."""

    keys: Mapping[str, KeyRecord] = field(default_factory=dict)
    """By the part of the key that names it."""
    tenants: Mapping[str, TenantRecord] = field(default_factory=dict)

    def tenant(
        self, name: str, roles: Iterable[str] = (), limits: TenantLimits | None = None, *, key_id: str = ""
    ) -> Caller:
        """Returns a caller of a tenant, with what the file gives to all of that tenant's."""
        record = self.tenants.get(name, TenantRecord())
        own = TenantLimits() if limits is None else limits
        return Caller(tenant=name, roles=record.roles.union(roles), limits=own.over(record.limits), key_id=key_id)

    def caller(self, key: str, now: float) -> Caller:
        """Returns whose a key is at a Unix time. Raises `Unauthenticated` for a key that is wrong or has expired."""
        match = _KEY.fullmatch(key)
        key_id = match[1] if match else ""
        record = self.keys.get(key_id)
        expected = _NOBODY if record is None else record.digest
        if not hmac.compare_digest(_digest(key), expected) or record is None:
            raise Unauthenticated(CredentialsReason.INVALID, "the API key is not valid")
        if record.expires is not None and now >= record.expires:
            whose = f"the key {key_id} of {record.tenant} has expired"
            raise Unauthenticated(CredentialsReason.EXPIRED, "the API key has expired", whose)
        return self.tenant(record.tenant, record.roles, key_id=key_id)


def new_key(tenant: str, roles: Iterable[str] = (), expires: str | None = None) -> tuple[str, str]:
    """Returns a new key and the line of the file that stands for it.

    Args:
        tenant: whose key it is.
        roles: what its callers may do beyond being known.
        expires: ISO 8601 with a time zone; None for never.

    Raises ValueError, naming all that is wrong.
    """
    identifier = secrets.token_hex(6)
    key = f"imagegen_{identifier}_{secrets.token_urlsafe(32)}"
    record: dict[str, Any] = {"id": identifier, "hash": f"sha256:{_digest(key).hex()}", "tenant": tenant}
    if roles := sorted(set(roles)):
        record["roles"] = roles
    if expires is not None:
        record["expires"] = expires
    line = json.dumps(record)
    parse_register(line.encode())
    return key, line


def parse_register(content: bytes) -> Register:
    """Returns what a file of keys and tenants says: a JSON object on each line; empty lines and # comments are skipped.

    A key: `id`, `hash`, `tenant`, and if wanted `roles` (a list) and `expires` (ISO 8601 with a time zone).
    A tenant: `tenant`, and if wanted `roles` and the limits: `max_in_flight`, `steps_per_minute`, `burst_steps`,
    `weight`.

    Raises ValueError with a line for all that is wrong; nothing of a hash is in it.
    """
    wrong: list[str] = []
    keys: dict[str, KeyRecord] = {}
    tenants: dict[str, TenantRecord] = {}
    for number, text in enumerate(content.decode(errors="replace").splitlines(), start=1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        found: list[str] = []
        values = _object(text, found)
        if "id" in values or "hash" in values:
            _add_key(values, keys, found)
        elif values:
            _add_tenant(values, tenants, found)
        wrong += [f"line {number}: {problem}" for problem in found]
    if wrong:
        raise ValueError("; ".join(wrong))
    return Register(keys=keys, tenants=tenants)


def _object(text: str, wrong: list[str]) -> Mapping[str, object]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict) or not values:
        wrong.append("is no JSON object with a key or a tenant")
        return {}
    return values


def _add_key(values: Mapping[str, object], keys: dict[str, KeyRecord], wrong: list[str]) -> None:
    _only(values, _KEY_FIELDS, wrong)
    identifier, digest = str(values.get("id", "")), _HASH.fullmatch(str(values.get("hash", "")))
    if not re.fullmatch(r"[0-9a-f]{12}", identifier):
        wrong.append("id: must be 12 hexadecimal digits in lower case")
    elif identifier in keys:
        wrong.append(f"id: {identifier} is there already")
    if digest is None:
        wrong.append("hash: must be sha256: and 64 hexadecimal digits in lower case")
    record = KeyRecord(
        digest=bytes.fromhex(digest[1]) if digest else b"",
        tenant=_tenant(values, wrong),
        roles=_roles(values, wrong),
        expires=_expiry(values, wrong),
    )
    keys.setdefault(identifier, record)


def _add_tenant(values: Mapping[str, object], tenants: dict[str, TenantRecord], wrong: list[str]) -> None:
    _only(values, _TENANT_FIELDS, wrong)
    name = _tenant(values, wrong)
    if name in tenants:
        wrong.append(f"tenant: {name} has a line already")
    tenants.setdefault(name, TenantRecord(roles=_roles(values, wrong), limits=parse_limits(values, wrong)))


def _only(values: Mapping[str, object], known: frozenset[str], wrong: list[str]) -> None:
    wrong.extend(f"{name[:64]!r} is no field" for name in sorted(values.keys() - known))


def _tenant(values: Mapping[str, object], wrong: list[str]) -> str:
    name = values.get("tenant")
    if isinstance(name, str) and valid_tenant(name):
        return name
    wrong.append(f"tenant: {TENANT_RULE}")
    return ""


def _roles(values: Mapping[str, object], wrong: list[str]) -> frozenset[str]:
    roles = values.get("roles", [])
    if isinstance(roles, list) and all(isinstance(role, str) and _ROLE.fullmatch(role) for role in roles):
        return frozenset(roles)
    wrong.append("roles: must be a list of names of 1 to 64 letters, digits or . _ : / -")
    return frozenset()


def _expiry(values: Mapping[str, object], wrong: list[str]) -> float | None:
    text = values.get("expires")
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        wrong.append("expires: must be a time with its zone, as 2027-01-31T00:00:00Z")
        return None
    return when.astimezone(UTC).timestamp()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
