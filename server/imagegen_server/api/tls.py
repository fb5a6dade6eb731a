"""TLS of the gRPC port: certificate and key from files, read again when the files change.

A certificate is replaced without a restart: the next handshake after the files have changed uses them; connections that
are open stay as they are. Files that do not fit together (a writer is half way, say) are left alone until they do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from imagegen_server.errors import StartupError

_Stamp = tuple[int, int, int, int]


@dataclass(kw_only=True, frozen=True, slots=True)
class _Pair:
    """A certificate chain and its key, as PEM."""

    chain: bytes
    key: bytes
    expiry: float
    """Unix time."""

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)])


class ServerTls:
    """The server's certificate. Thread-safe."""

    def __init__(self, certificate: Path, key: Path, on_change: Callable[[str], None] = lambda _: None) -> None:
        """Reads both files.

        Args:
            certificate: PEM, the server's certificate first, then the intermediate ones.
            key: PEM, its private key, without a password.
            on_change: hears `reloaded`, or why changed files are not used; from gRPC's threads.

        Raises errors.StartupError if the files cannot be read or do not fit together.
        """
        self._certificate, self._key = certificate, key
        self._on_change = on_change
        self._lock = threading.Lock()
        try:
            self._stamp = self._stamps()
            self._pair = self._given = _read(certificate, key)
        except (OSError, ValueError) as error:
            raise StartupError(f"TLS cannot be set up: {error}") from error

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a port is opened with."""
        fetch: Any = self._fetch  # the stubs lack the None that keeps the configuration
        return grpc.dynamic_ssl_server_credentials(self._pair.configuration(), fetch)

    def expiry(self) -> float:
        """Returns when the certificate in the files ends, in Unix time."""
        with self._lock:
            self._look()
            return self._pair.expiry

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what gRPC does not have yet; it asks at each handshake."""
        with self._lock:
            self._look()
            if self._pair is self._given:
                return None
            self._given = self._pair
            return self._pair.configuration()

    def _look(self) -> None:
        """Reads the files if they have changed and fit together."""
        try:
            stamp = self._stamps()
            if stamp == self._stamp:
                return
            self._stamp = stamp  # told once, until they change again
            self._pair = _read(self._certificate, self._key)
        except (OSError, ValueError) as error:
            self._on_change(f"not used: {error}")
        else:
            self._on_change("reloaded")

    def _stamps(self) -> _Stamp:
        certificate, key = self._certificate.stat(), self._key.stat()
        return certificate.st_mtime_ns, certificate.st_ino, key.st_mtime_ns, key.st_ino


def _read(certificate: Path, key: Path) -> _Pair:
    """Raises OSError or ValueError if the files cannot be used together."""
    chain, secret = certificate.read_bytes(), key.read_bytes()
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
    return _Pair(chain=chain, key=secret, expiry=first.not_valid_after_utc.timestamp())
