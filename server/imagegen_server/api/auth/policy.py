"""Which calls need credentials: one rule for each class of methods."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from imagegen_server.api.auth.caller import Caller
from imagegen_server.errors import CredentialsReason, PermissionDenied, StartupError, Unauthenticated

_ROLE: Final = re.compile(r"role:([A-Za-z0-9._:/-]{1,64})")


class MethodClass(enum.StrEnum):
    """What a method is for."""

    INFERENCE = "inference"
    INFO = "info"
    ADMIN = "admin"
    REFLECTION = "reflection"
    HEALTH = "health"


_CLASSES: Final[Mapping[str, MethodClass]] = {
    "/imagegen.v1.ImageGen/GenerateImage": MethodClass.INFERENCE,
    "/imagegen.v1.ImageGen/RenderImage": MethodClass.INFERENCE,
    "/imagegen.v1.ImageGen/WatchGeneration": MethodClass.INFERENCE,
    "/imagegen.v1.ImageGen/CancelGeneration": MethodClass.INFERENCE,
    "/imagegen.v1.ImageGen/GetGeneration": MethodClass.INFERENCE,
    "/imagegen.v1.ImageGen/ListModels": MethodClass.INFO,
    "/imagegen.v1.ImageGen/GetServerInfo": MethodClass.INFO,
}
_SERVICES: Final[Mapping[str, MethodClass]] = {
    "/grpc.health.v1.Health/": MethodClass.HEALTH,
    "/grpc.reflection.v1alpha.ServerReflection/": MethodClass.REFLECTION,
    "/grpc.reflection.v1.ServerReflection/": MethodClass.REFLECTION,
}


def class_of(path: str) -> MethodClass:
    """Returns the class of a method; what is not known to be anything else is `admin`."""
    by_service = next((kind for prefix, kind in _SERVICES.items() if path.startswith(prefix)), MethodClass.ADMIN)
    return _CLASSES.get(path, by_service)


class Access(enum.StrEnum):
    """Who may make a call."""

    OPEN = "open"
    """Anybody."""
    REQUIRED = "required"
    """Whoever shows good credentials."""
    ROLE = "role"
    """Whoever shows good credentials and has the role."""
    OFF = "off"
    """Nobody: as if the method was not there."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Rule:
    """Who may call a class of methods."""

    access: Access
    role: str = ""
    """Set for `Access.ROLE`."""

    def check(self, caller: Caller) -> None:
        """Raises `Unauthenticated` or `PermissionDenied` if the caller may not."""
        if self.access is not Access.OPEN and not caller.known:
            raise Unauthenticated(CredentialsReason.MISSING, "this call needs credentials")
        if self.access is Access.ROLE and self.role not in caller.roles:
            raise PermissionDenied(f"this call needs the role {self.role}")


Policy = Mapping[MethodClass, Rule]

_DEFAULT: Final[Mapping[MethodClass, Rule]] = {
    MethodClass.INFERENCE: Rule(access=Access.REQUIRED),
    MethodClass.INFO: Rule(access=Access.REQUIRED),
    MethodClass.ADMIN: Rule(access=Access.ROLE, role="admin"),
    MethodClass.REFLECTION: Rule(access=Access.REQUIRED),
    MethodClass.HEALTH: Rule(access=Access.OPEN),
}
_OPEN: Final[Mapping[MethodClass, Rule]] = dict.fromkeys(MethodClass, Rule(access=Access.OPEN))


def parse_policy(text: str, *, authenticates: bool) -> Policy:
    """Returns the rule for each class: the default, except where `inference=open,reflection=off` says otherwise.

    Args:
        text: class=open, class=required, class=off or class=role:NAME, with commas between; may be empty.
        authenticates: whether the server can tell callers apart. If not, the default is to let everybody in.

    Raises StartupError with everything that is wrong.
    """
    rules, wrong = dict(_DEFAULT if authenticates else _OPEN), []
    seen: set[str] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name not in {str(kind) for kind in MethodClass}:
            wrong.append(f"{name!r} is none of {', '.join(MethodClass)}")
            continue
        if name in seen:
            wrong.append(f"{name} is there twice")
        seen.add(name)
        role = _ROLE.fullmatch(value)
        if role is None and value not in ("open", "required", "off"):
            wrong.append(f"{name} must be open, required, off or role:NAME, not {value!r}")
            continue
        rule = Rule(access=Access.ROLE, role=role[1]) if role else Rule(access=Access(value))
        if rule.access in (Access.REQUIRED, Access.ROLE) and not authenticates:
            wrong.append(f"{name}={value} needs a way to authenticate: API keys, tokens or client certificates")
        rules[MethodClass(name)] = rule
    if wrong:
        raise StartupError(f"--auth-policy: {'; '.join(wrong)}")
    return rules
