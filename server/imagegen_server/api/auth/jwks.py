"""The public keys that sign bearer tokens: read from a file or fetched from a URL, kept, and refreshed.

Where they come from is the operator's choice alone; what a token says about keys (`jku`, `x5u`, `jwk`) is never looked
at. While the source is down, the last keys that it gave hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from imagegen_server.errors import StartupError, Unavailable, UnavailableReason

_CURVES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    **{f"{family}{bits}": ("RSA", ("",)) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
ALGORITHMS: Final = tuple(_CURVES)
"""What may sign a token: public keys alone. Never `none`, and no secret that this server would have to know."""
LEAST_RSA_BITS: Final = 2048
_LONGEST: Final = 2**20
_PATIENCE: Final = 5.0
"""Seconds in which a URL must have answered."""


@dataclass(kw_only=True, frozen=True, slots=True)
class SigningKey:
    """One public key."""

    kid: str | None
    algorithms: frozenset[str]
    """With which it may verify."""
    key: Any
    """As PyJWT takes it."""


def parse_keys(content: bytes) -> Sequence[SigningKey]:
    """Returns the keys of a JSON Web Key Set that can verify signatures; others (for encryption, secret) are skipped.

    Raises ValueError if it is no such set, has no such key, or has one that is broken or too weak.
    """
    try:
        entries = json.loads(content)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("is no JSON Web Key Set") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("is no JSON Web Key Set")
    keys = [key for number, entry in enumerate(entries, start=1) if (key := _key(entry, number)) is not None]
    if not keys:
        raise ValueError("has no public key that can verify signatures")
    return keys


def _key(entry: Mapping[str, Any], number: int) -> SigningKey | None:
    use, operations = entry.get("use"), entry.get("key_ops")
    if use not in (None, "sig") or not (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    ):
        return None
    kind, curve, stated = entry.get("kty"), entry.get("crv", ""), entry.get("alg")
    fitting = {
        name
        for name, (family, curves) in _CURVES.items()
        if family == kind and curve in curves and stated in (None, name)
    }
    if not fitting:
        return None
    kid = entry.get("kid")
    try:
        public = {name: value for name, value in entry.items() if name != "d"}  # a private key verifies like its public
        key = jwt.get_algorithm_by_name(min(fitting)).from_jwk(json.dumps(public))
    except Exception as error:
        raise ValueError(f"key {number} is broken: {type(error).__name__}") from error
    if isinstance(key, RSAPublicKey) and key.key_size < LEAST_RSA_BITS:
        raise ValueError(f"key {number} has {key.key_size} bits; RSA needs {LEAST_RSA_BITS}")
    return SigningKey(kid=kid if isinstance(kid, str) else None, algorithms=frozenset(fitting), key=key)


class SigningKeys:
    """The keys of one source. For one event loop."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        refresh: float,
        pause: float,
        on_change: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetches nothing yet.

        Args:
            fetch: returns a JSON Web Key Set; raises OSError.
            refresh: seconds after which the keys are fetched again, while calls go on with the old ones.
            pause: least seconds between two fetches, whatever tokens ask for.
            on_change: hears `reloaded`, or why keys cannot be had.
            clock: seconds, monotonic.
        """
        self._fetch = fetch
        self._refresh, self._pause = refresh, pause
        self._on_change = on_change
        self._clock = clock
        self._keys: Sequence[SigningKey] = ()
        self._content = b""
        self._broken = ""
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def load(self) -> str:
        """Fetches the keys for the first time; returns what is wrong, or nothing."""
        await self._renew()
        return self._broken

    async def find(self, kid: str | None, algorithm: str) -> SigningKey | None:
        """Returns the key that a token names; for a token that names none, the only one for its algorithm.

        Keys that are not known are looked for once more, but no more often than every `pause` seconds. Raises
        `Unavailable` while no keys at all could be had.
        """
        found = self._known(kid, algorithm)
        if found is None:
            await self._renew()
            found = self._known(kid, algorithm)
        elif self._clock() - self._fetched_at >= self._refresh:
            self._begin_fetch()
        if not self._keys:
            raise Unavailable(UnavailableReason.TOKEN_KEYS, "tokens cannot be verified at the moment")
        return found

    def _known(self, kid: str | None, algorithm: str) -> SigningKey | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid == kid)]
        return fitting[0] if len(fitting) == 1 else None

    async def _renew(self) -> None:
        """Waits for new keys, if they may be fetched now."""
        fetching = self._begin_fetch()
        if fetching is not None:
            await asyncio.shield(fetching)  # other calls wait for it too

    def _begin_fetch(self) -> asyncio.Task[None] | None:
        """Returns the fetch that is under way; None if it is too early for another."""
        if self._fetching is None and self._clock() - self._tried_at >= self._pause:
            self._tried_at = self._clock()
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_keys())
        return self._fetching

    async def _fetch_keys(self) -> None:
        try:
            content = await self._fetch()
            keys = self._keys if content == self._content else parse_keys(content)
        except (OSError, ValueError) as error:
            if str(error) != self._broken:
                self._broken = str(error)
                self._on_change(f"not used: {error}")
        else:
            self._fetched_at, self._broken = self._clock(), ""
            if self._content and content != self._content:
                self._on_change("reloaded")
            self._keys, self._content = keys, content
        finally:
            self._fetching = None


def open_keys(source: str, *, refresh: float, on_change: Callable[[str], None]) -> SigningKeys:
    """Returns the keys of a file, which is read again when it changes, or of a URL.

    Args:
        source: a path, or an https URL; http on this host alone.
        refresh: seconds after which keys of a URL are fetched again.
        on_change: as for `SigningKeys`.

    Raises StartupError for a URL that must not be used.
    """
    if "://" not in source:

        async def read() -> bytes:
            return Path(source).read_bytes()  # noqa: ASYNC240 # a small local file, twice a second at most

        return SigningKeys(read, refresh=0.5, pause=0.5, on_change=on_change)
    _check_url(source)
    return SigningKeys(
        lambda: asyncio.to_thread(_download, source), refresh=refresh, pause=min(refresh, 10.0), on_change=on_change
    )


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    here = host == "localhost"
    with contextlib.suppress(ValueError):
        here = here or ipaddress.ip_address(host).is_loopback
    if parts.username or not host or not (parts.scheme == "https" or (parts.scheme == "http" and here)):
        raise StartupError("--jwt-keys must be a file, or an https URL without a user (http on this host alone)")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Lets nobody send the server elsewhere for its keys."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follows nothing."""


def _download(url: str) -> bytes:
    """Returns what a URL has. Raises OSError if that fails, takes too long or is too much."""
    # http is for this host alone: not the environment's proxy, which would choose the keys
    direct = [urllib.request.ProxyHandler({})] if urllib.parse.urlsplit(url).scheme == "http" else []
    opener = urllib.request.build_opener(_NoRedirects, *direct)
    deadline = time.monotonic() + _PATIENCE
    content = b""
    try:
        with opener.open(url, timeout=_PATIENCE) as answer:
            while part := answer.read1(2**16):
                content += part
                if len(content) > _LONGEST or time.monotonic() > deadline:
                    raise OSError("the answer is too long, or takes too long")
    except http.client.HTTPException as error:
        raise OSError(f"the answer is no HTTP: {type(error).__name__}") from error
    return content
