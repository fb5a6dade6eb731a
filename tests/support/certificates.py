"""Certificates as files, for servers with TLS."""

from __future__ import annotations

from pathlib import Path

import trustme


def write(issued: trustme.LeafCert, directory: Path) -> tuple[Path, Path]:
    """Writes a certificate chain and its key over what was there; returns their paths."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key
