"""Certificates as files, for servers with TLS."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import trustme


def write(issued: trustme.LeafCert, directory: Path) -> tuple[Path, Path]:
    """Writes a certificate chain and its key over what was there; returns their paths."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key


def trusting(authority: trustme.CA, mine: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    """Returns what a client needs that trusts an authority, and shows a certificate if it has one."""
    if mine is None:
        return grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    chain = b"".join(part.bytes() for part in mine.cert_chain_pems)
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes(), mine.private_key_pem.bytes(), chain)


def tls_channel(
    port: int, authority: trustme.CA, mine: trustme.LeafCert | None = None, host: str = "localhost"
) -> grpc.aio.Channel:
    """Returns a channel with a connection of its own to a server on this host."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"{host}:{port}", trusting(authority, mine), options)
