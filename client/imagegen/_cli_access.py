"""From the command line's options to what a client shows and trusts, and back."""

from __future__ import annotations

import argparse
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from imagegen._access import is_sendable
from imagegen._cli_parser import KEY_VARIABLE, TOKEN_VARIABLE, UsageError
from imagegen._target import DEFAULT_TARGET

_LOOK_SECONDS: Final = 1.0
"""How long a host may take to take a connection."""


def access_options(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    """Returns the client's options for TLS, keys and tokens.

    Raises UsageError for options that do not go together and for what is no key or no PEM, and OSError for a file that
    cannot be read.
    """
    if (arguments.certificate is None) != (arguments.certificate_key is None):
        raise UsageError("--certificate needs --certificate-key, and the other way round")
    if arguments.tls_server_name is not None and not tls_options(arguments):
        raise UsageError("--tls-server-name needs --tls, --ca or --certificate")
    if arguments.api_key_file is not None and arguments.token_file is not None:
        raise UsageError("give either --api-key-file or --token-file")
    options: dict[str, Any] = {"tls": arguments.tls}
    if arguments.tls_server_name is not None:
        options["tls_server_name"] = arguments.tls_server_name
    if arguments.ca is not None:
        options["root_certificates"] = _pem(arguments.ca)
    if arguments.certificate is not None:
        options["client_certificate"] = (_pem(arguments.certificate), _pem(arguments.certificate_key))
    options |= _secret(arguments.api_key_file, arguments.token_file, environment)
    options["allow_plaintext_credentials"] = arguments.allow_plaintext_credentials
    return options


def watch_command(arguments: argparse.Namespace, request_id: str) -> str:
    """Returns the command line that takes a generation up again, on the same server and as the same caller."""
    words = ["imagegen", "watch", request_id]
    if arguments.server != DEFAULT_TARGET:
        words += ["--server", arguments.server]
    words += [f"--{name}" for name in ("tls", "allow-plaintext-credentials") if _given(arguments, name)]
    for name in ("ca", "certificate", "certificate-key", "tls-server-name", "api-key-file", "token-file"):
        if _given(arguments, name):
            words += [f"--{name}", str(_given(arguments, name))]
    return shlex.join(words)


def tls_options(arguments: argparse.Namespace) -> str:
    """Returns the options that ask for TLS, for people; empty if there are none."""
    return " and ".join(f"--{name}" for name in ("tls", "ca", "certificate") if _given(arguments, name))


def somebody_listens(server: str) -> bool:
    """Returns whether a connection to HOST:PORT comes about at any of the host's addresses, of which gRPC tells one.

    False for other targets of gRPC.
    """
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _given(arguments: argparse.Namespace, name: str) -> Any:
    return getattr(arguments, name.replace("-", "_"))


def _pem(file: Path) -> bytes:
    """Returns a file in PEM; raises UsageError for another, of which gRPC would only say that nobody answers."""
    content = file.read_bytes()
    if b"-----BEGIN" not in content:
        raise UsageError(f"{file} is no PEM file: nothing in it begins with -----BEGIN")
    return content


def _secret(key_file: Path | None, token_file: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the key or the token; a file is preferred to a variable, and a key to a token."""
    if key_file is not None:
        return {"api_key": _read(key_file)}
    if token_file is not None:
        return {"token": _read(token_file)}
    for option, name in (("api_key", KEY_VARIABLE), ("token", TOKEN_VARIABLE)):
        if environment.get(name):
            return {option: _sendable(environment[name], name)}
    return {}


def _read(file: Path) -> str:
    return _sendable(file.read_text(encoding="utf-8", errors="replace"), str(file))


def _sendable(secret: str, source: str) -> str:
    """Returns a key or a token without the space around it; raises UsageError if no header can carry it."""
    stripped = secret.strip()
    if not is_sendable(stripped):
        raise UsageError(f"{source} holds no key or token: these are printable ASCII")
    return stripped
