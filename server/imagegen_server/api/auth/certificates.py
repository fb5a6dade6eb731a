"""The caller's identity in its TLS certificate, which gRPC has verified by then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from imagegen_server.api.auth.caller import valid_tenant
from imagegen_server.errors import CredentialsReason, Unauthenticated

_NAMES: Final = ("peer_uri", "peer_dns", "peer_email")
"""Kinds of subject alternative names, the preferred first; a SPIFFE id is a URI."""


def certificate_name(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """Returns the first URI of a client's certificate, else its first DNS name or e-mail address; None without one.

    Raises `Unauthenticated` for a certificate that names nobody who could be a tenant.
    """
    if not auth_context.get("x509_pem_cert"):
        return None
    for kind in _NAMES:
        for value in auth_context.get(kind, ()):
            name = value.decode(errors="replace")
            if valid_tenant(name):
                return name
            raise Unauthenticated(CredentialsReason.INVALID, "the name in the client certificate cannot name a tenant")
    raise Unauthenticated(CredentialsReason.INVALID, "the client certificate has no URI, DNS name or e-mail address")
