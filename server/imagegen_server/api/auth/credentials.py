"""The credentials in a call's metadata."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from imagegen_server.errors import CredentialsReason, Unauthenticated

KEY_HEADER: Final = "x-api-key"
TOKEN_HEADER: Final = "authorization"  # noqa: S105 # the name of a header
_LONGEST: Final = 16 * 1024


@dataclass(kw_only=True, frozen=True, slots=True)
class Credentials:
    """What a caller showed. At most one of them is set."""

    key: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"  # nothing of them may get into a log


def credentials_of(metadata: Iterable[tuple[str, str | bytes]]) -> Credentials:
    """Returns the API key or the bearer token of a call; both empty if it has none.

    Raises `Unauthenticated` for anything that is neither, or for more than one.
    """
    found = [(name, value) for name, value in metadata if name in (KEY_HEADER, TOKEN_HEADER)]
    if not found:
        return Credentials()
    if len(found) > 1:
        raise Unauthenticated(CredentialsReason.INVALID, "a call takes one API key or one bearer token, not several")
    name, value = found[0]
    if not isinstance(value, str) or not value.isascii() or len(value) > _LONGEST:
        raise Unauthenticated(CredentialsReason.INVALID, "credentials must be ASCII text of at most 16 KiB")
    if name == KEY_HEADER:
        if not value:
            raise Unauthenticated(CredentialsReason.INVALID, "the API key is not valid")
        return Credentials(key=value)
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token or token != token.strip():
        raise Unauthenticated(CredentialsReason.INVALID, "authorization must be: Bearer TOKEN")
    return Credentials(token=token)
