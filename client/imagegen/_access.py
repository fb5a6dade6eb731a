"""How a client shows who it is, and whom it trusts: TLS, API keys and bearer tokens.

Keys and tokens never travel in plain text to another host unless that was asked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc

Secret: TypeAlias = str | Callable[[], str]
"""A text, or a function that is asked for it at the beginning of each call."""

KEY_HEADER: Final = "x-api-key"
TOKEN_HEADER: Final = "authorization"  # noqa: S105 # the name of a header

_SCHEME: Final = re.compile(r"(?:dns:(?://[^/]*/)?|ipv4:|ipv6:)")


class PlaintextError(ValueError):
    """A key or a token would travel to another host in plain text."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Access:
    """What a client was given. Raises ValueError for what does not go together."""

    credentials: grpc.ChannelCredentials | None = None
    tls: bool = False
    root_certificates: bytes | None = None
    client_certificate: tuple[bytes, bytes] | None = None
    tls_server_name: str | None = None
    api_key: Secret | None = None
    token: Secret | None = None
    allow_plaintext_credentials: bool = False

    def __post_init__(self) -> None:
        if self.credentials is not None and self._own_tls:
            raise ValueError("give either credentials, or tls, root_certificates and client_certificate")
        if self.tls_server_name is not None and self.credentials is None and not self._own_tls:
            raise ValueError("tls_server_name needs tls, root_certificates, client_certificate or credentials")
        if self.api_key is not None and self.token is not None:
            raise ValueError("give either an api_key or a token")
        if isinstance(self.api_key, str) or isinstance(self.token, str):
            self.metadata()

    def __repr__(self) -> str:
        return "Access(...)"  # nothing of it may get into a log

    @property
    def _own_tls(self) -> bool:
        return self.tls or self.root_certificates is not None or self.client_certificate is not None

    def channel_credentials(self, target: str) -> grpc.ChannelCredentials | None:
        """Returns what a channel to a target needs; None for plain text.

        Raises PlaintextError if a key or a token would travel to another host in plain text.
        """
        if self.credentials is not None:
            return self.credentials
        if self._own_tls:
            chain, key = self.client_certificate or (None, None)
            return grpc.ssl_channel_credentials(self.root_certificates, key, chain)
        shows = self.api_key is not None or self.token is not None
        if shows and not self.allow_plaintext_credentials and not is_this_host(target):
            raise PlaintextError(
                f"a key or a token would travel to {target} in plain text: use tls=True or root_certificates, "
                "or say allow_plaintext_credentials=True"
            )
        return None

    def channel_options(self) -> tuple[tuple[str, str], ...]:
        """Returns what a channel has to know of the server's certificate."""
        name = self.tls_server_name
        return () if name is None else (("grpc.ssl_target_name_override", name), ("grpc.default_authority", name))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns what shows a server who calls. Raises ValueError for a key or a token that no header can carry."""
        if self.api_key is not None:
            return ((KEY_HEADER, _text(self.api_key, "api_key")),)
        if self.token is not None:
            return ((TOKEN_HEADER, f"Bearer {_text(self.token, 'token')}"),)
        return ()


def is_this_host(target: str) -> bool:
    """Returns whether a gRPC target certainly is on this host: localhost, a loopback address or a Unix socket."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    addresses = _SCHEME.sub("", target, count=1).split(",")
    return all(_is_loopback(_host(address)) for address in addresses)


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_sendable(text: str) -> bool:
    """Returns whether a header can carry a text; gRPC's own complaint would show it."""
    return text.isascii() and text.isprintable()


def _text(secret: Secret, name: str) -> str:
    text = secret() if callable(secret) else secret
    if not is_sendable(text):
        raise ValueError(f"the {name} must be printable ASCII, without a line's end")
    return text
