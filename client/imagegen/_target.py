"""What a server may be called, and by which ways a client gets to another one. Pure."""

from __future__ import annotations

import re
from typing import Final

DEFAULT_TARGET: Final = "localhost:50051"
"""Where a server listens by default."""

_HOST_PORT: Final = re.compile(r"(?:\[[^\[\]/]+\]|[^:/\[\]]+):([0-9]{1,5})")
"""What an address has to look like; gRPC itself takes 443 for a port that is missing."""

_GRPC_TARGET: Final = re.compile(r"(?:dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):|[a-z][a-z0-9+.-]*://", re.I)
"""How a target begins that gRPC resolves in a way of its own."""

_LIST: Final = re.compile(r"((?:ipv4|ipv6):)(.+,.+)")
"""Addresses in the order in which they are preferred."""

_TRIES: Final = 3
"""New connections to one name, of which each may lead to another server."""


def checked_target(target: str, tls: str = "tls=True") -> str:
    """Returns host:port or another target of gRPC; `tls` is how TLS is asked for.

    Raises ValueError for anything else, of which gRPC would say that nobody answers.
    """
    scheme, separator, rest = target.partition("://")
    if separator and scheme.lower() in {"http", "https"}:
        hint = f" and {tls}" if scheme.lower() == "https" else ""
        raise ValueError(f"{target} is a URL, not HOST:PORT; say {rest.rstrip('/')}{hint}")
    port = _HOST_PORT.fullmatch(target)
    if not _GRPC_TARGET.match(target) and not (port and 0 < int(port[1]) < 2**16):
        raise ValueError(f"HOST:PORT is needed, as {DEFAULT_TARGET}, not {target!r}")
    return target


def is_list(target: str) -> bool:
    """Returns whether a target names several addresses, and so the order in which they are tried."""
    return _LIST.fullmatch(target) is not None


def ways(target: str) -> tuple[str, ...]:
    """Returns the targets of new connections of which one may lead to another server, in the order to try them.

    Of a list every address comes to be the first. Any other name is asked for again: what it leads to may have changed.
    """
    found = _LIST.fullmatch(target)
    if found is None:
        return (target,) * _TRIES
    addresses = found[2].split(",")
    turned = (addresses[first:] + addresses[:first] for first in (*range(1, len(addresses)), 0))
    return tuple(found[1] + ",".join(order) for order in turned)
