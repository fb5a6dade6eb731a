"""Who is calling: from an API key, a bearer token or a client certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from imagegen_server.api.auth.caller import ANONYMOUS, Caller
from imagegen_server.api.auth.certificates import certificate_name
from imagegen_server.api.auth.credentials import credentials_of
from imagegen_server.api.auth.keys import Register, parse_register
from imagegen_server.api.auth.tokens import JwtVerifier
from imagegen_server.api.watched import Current
from imagegen_server.errors import CredentialsReason, StartupError, Unauthenticated

_LOOK_INTERVAL: Final = 0.5
"""Seconds between two looks at whether the file has changed."""


class RegisterFile:
    """A file of API keys and tenants, read again when it changes. For one thread."""

    def __init__(
        self, path: Path, on_change: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Reads the file. `on_change` hears `reloaded`, or why a changed file is not used; raises StartupError."""
        self._clock = clock
        self._looked_at = clock()
        try:
            self._file = Current([path], lambda contents: parse_register(contents[0]), on_change)
        except (OSError, ValueError) as error:
            raise StartupError(f"API keys cannot be read from {path}: {error}") from error
        self._register = self._file.look()

    def register(self) -> Register:
        """Returns what the file says; as long as it cannot be used, what it said before."""
        now = self._clock()
        if now - self._looked_at >= _LOOK_INTERVAL:
            self._looked_at = now
            self._register = self._file.look()
        return self._register


class Authenticator:
    """Tells who makes a call."""

    def __init__(
        self, *, keys: RegisterFile | None = None, tokens: JwtVerifier | None = None, certificates: bool = False
    ) -> None:
        """Args: API keys and tenants; bearer tokens; whether a client certificate tells who calls."""
        self._keys = keys
        self._tokens = tokens
        self._certificates = certificates

    async def caller(
        self, metadata: Iterable[tuple[str, str | bytes]], auth_context: Callable[[], Mapping[str, Iterable[bytes]]]
    ) -> Caller:
        """Returns who makes a call; `ANONYMOUS` if no credentials were shown.

        Credentials in the metadata are preferred to a certificate: a proxy's, say. Raises `Unauthenticated` for
        credentials that are no good, and `Unavailable` while tokens cannot be verified.
        """
        if self._keys is None and self._tokens is None and not self._certificates:
            return ANONYMOUS
        shown = credentials_of(metadata)
        register = Register() if self._keys is None else self._keys.register()
        if shown.key:
            if self._keys is None:
                raise Unauthenticated(CredentialsReason.INVALID, "this server takes no API keys")
            return register.caller(shown.key, time.time())
        if shown.token:
            if self._tokens is None:
                raise Unauthenticated(CredentialsReason.INVALID, "this server takes no bearer tokens")
            identity = await self._tokens.identity(shown.token)
            return register.tenant(identity.tenant, identity.roles, identity.limits)
        name = certificate_name(auth_context()) if self._certificates else None
        return ANONYMOUS if name is None else register.tenant(name)
