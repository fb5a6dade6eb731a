"""TLS of the gRPC port: certificate, key and the clients' authorities from files, read again when the files change.

A certificate is replaced without a restart: the next handshake after the files have changed uses them; connections that
are open stay as they are. Files that do not fit together (a writer is half way, say) are left alone until they do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from imagegen_server.api.watched import Current
from imagegen_server.errors import StartupError


@dataclass(kw_only=True, frozen=True, slots=True)
class _Files:
    """What handshakes are made with, as PEM."""

    chain: bytes
    key: bytes
    clients: bytes | None
    """Authorities whose client certificates are taken; None if clients show none."""
    expiry: float
    """Unix time."""

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.clients)


class ServerTls:
    """The server's certificate, and whose certificates clients must show. Thread-safe."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        on_change: Callable[[str], None] = lambda _: None,
        *,
        client_ca: Path | None = None,
    ) -> None:
        """Reads the files.

        Args:
            certificate: PEM, the server's certificate first, then the intermediate ones.
            key: PEM, its private key, without a password.
            on_change: hears `reloaded`, or why changed files are not used; from gRPC's threads.
            client_ca: PEM, the authorities; clients must show a certificate that one of them signed. None: clients
                show no certificate.

        Raises errors.StartupError if the files cannot be read or do not fit together.
        """
        paths = (certificate, key) if client_ca is None else (certificate, key, client_ca)
        self._lock = threading.Lock()
        try:
            self._files = Current(paths, partial(_checked, paths), on_change)
        except (OSError, ValueError) as error:
            raise StartupError(f"TLS cannot be set up: {error}") from error

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a port is opened with, once: another port, or the same one opened again, needs its own."""
        fetch: Any = self._fetch  # the stubs lack the None that keeps the configuration
        with self._lock:
            self._given = files = self._files.look()
        return grpc.dynamic_ssl_server_credentials(files.configuration(), fetch, files.clients is not None)

    def expiry(self) -> float:
        """Returns when the certificate in the files ends, in Unix time."""
        with self._lock:
            return self._files.look().expiry

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what gRPC does not have yet; it asks at each handshake."""
        with self._lock:
            files = self._files.look()
            if files is self._given:
                return None
            self._given = files
            return files.configuration()


def _checked(paths: Sequence[Path], contents: Sequence[bytes]) -> _Files:
    """Raises ValueError if certificate, key and authorities (if there are any) cannot be used together."""
    (certificate, key, *client_ca), (chain, secret, *clients) = paths, contents
    for path, content in zip(paths, contents, strict=True):
        if content.count(b"-----BEGIN ") != content.count(b"-----END "):  # what follows the last whole block is ignored
            raise ValueError(f"{path} ends within a PEM block")
    try:
        first = x509.load_pem_x509_certificate(chain)
    except ValueError as error:
        raise ValueError(f"{certificate} has no PEM certificate") from error
    try:
        private = load_pem_private_key(secret, password=None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} has no PEM private key without a password") from error
    if private.public_key() != first.public_key():
        raise ValueError(f"the key in {key} is not that of the certificate in {certificate}")
    for path, authorities in zip(client_ca, clients, strict=True):
        try:
            x509.load_pem_x509_certificates(authorities)
        except ValueError as error:
            raise ValueError(f"{path} has no PEM certificates, or a broken one") from error
    return _Files(
        chain=chain, key=secret, clients=clients[0] if clients else None, expiry=first.not_valid_after_utc.timestamp()
    )
