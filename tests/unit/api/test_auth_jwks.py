"""Where token keys come from: rotation, refreshing, an endpoint that is down, and what is not fetched."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen_server.api import JwtVerifier, TokenRules
from imagegen_server.api.auth import SigningKeys, open_keys
from imagegen_server.errors import StartupError, Unauthenticated, Unavailable
from support.tokens import AUDIENCE, ISSUER, Signer, key_set, signer

OLD, NEW = signer("ES256", "old"), signer("ES256", "new")
RULES = TokenRules(issuer=ISSUER, audience=AUDIENCE)


class Source:
    """Keys that change, and may be out of reach, with a clock."""

    def __init__(self, *signers: Signer) -> None:
        self.content = key_set(*signers)
        self.down = False
        self.fetches = 0
        self.now = 1000.0
        self.heard: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> bytes:
        self.fetches += 1
        await self.gate.wait()
        if self.down:
            raise ConnectionRefusedError("nobody there")
        return self.content

    def verifier(self) -> JwtVerifier:
        keys = SigningKeys(self.fetch, refresh=300, pause=10, on_change=self.heard.append, clock=lambda: self.now)
        return JwtVerifier(keys, RULES)


async def taken(verifier: JwtVerifier, key: Signer) -> bool:
    """Returns whether a key's token is taken."""
    try:
        return bool(await verifier.identity(key.token()))
    except Unauthenticated:
        return False


async def test_a_new_key_is_found_by_its_name_and_an_old_one_is_forgotten() -> None:
    """The first token of a new key brings the new set in; a key that is gone from it is no good any more."""
    source = Source(OLD)
    verifier = source.verifier()
    assert await taken(verifier, OLD)
    source.content = key_set(OLD, NEW)
    source.now += 10
    assert await taken(verifier, NEW)
    assert await taken(verifier, OLD)
    source.content = key_set(NEW)
    source.now += 300
    assert await taken(verifier, OLD)  # begins the refresh, and does not wait for it
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not await taken(verifier, OLD)
    assert source.heard == ["reloaded", "reloaded"]


async def test_unknown_names_do_not_make_the_server_ask_all_the_time() -> None:
    """However many tokens name keys that are not there, the source is asked once in a while, and once for all."""
    source = Source(OLD)
    verifier = source.verifier()
    assert await taken(verifier, OLD)
    source.gate.clear()
    source.now += 10
    calls = [asyncio.create_task(taken(verifier, NEW)) for _ in range(100)]
    while source.fetches < 2:
        await asyncio.sleep(0)
    source.gate.set()
    assert not any(await asyncio.gather(*calls))
    for _ in range(100):
        assert not await taken(verifier, NEW)
    assert source.fetches == 2


async def test_a_call_that_leaves_does_not_stop_the_fetch_of_the_others() -> None:
    """The fetch is everybody's."""
    source = Source(OLD)
    verifier = source.verifier()
    source.gate.clear()
    first, second = (asyncio.create_task(taken(verifier, OLD)) for _ in range(2))
    while not source.fetches:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await second
    assert source.fetches == 1


async def test_keys_hold_while_the_source_is_down() -> None:
    """For as long as it takes; that it is down is told once. Broken content counts as down."""
    source = Source(OLD)
    verifier = source.verifier()
    assert await taken(verifier, OLD)
    source.down = True
    for _ in range(5):
        source.now += 300
        assert await taken(verifier, OLD)
        await asyncio.sleep(0.001)
    source.down, source.content = False, b"<html>"
    source.now += 300
    assert await taken(verifier, OLD)
    await asyncio.sleep(0.001)
    assert source.heard == ["not used: nobody there", "not used: is no JSON Web Key Set"]
    assert source.fetches == 7
    source.content = key_set(NEW)
    source.now += 10
    assert await taken(verifier, NEW)


async def test_without_any_keys_tokens_are_refused_for_now() -> None:
    """Nobody can say whether they are good; once the source is up they are."""
    source = Source(OLD)
    source.down = True
    verifier = source.verifier()
    with pytest.raises(Unavailable):
        await verifier.identity(OLD.token())
    source.down = False
    source.now += 10
    assert await taken(verifier, OLD)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/keys")
            self.end_headers()
            return
        body = key_set(OLD) if self.path == "/keys" else b" " * (2**20 + 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name
        """Logs nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """An HTTP server with keys, a redirect to them, and too much."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_keys_of_a_url(site: str) -> None:
    """They are fetched from the URL itself: nobody can send the server elsewhere, nor fill its memory."""
    keys = open_keys(f"{site}/keys", refresh=300, on_change=lambda _: None)
    assert await keys.load() == ""
    assert await taken(JwtVerifier(keys, RULES), OLD)
    for path, problem in (("moved", "302"), ("big", "too long")):
        assert problem in await open_keys(f"{site}/{path}", refresh=300, on_change=lambda _: None).load()
    assert await open_keys("http://127.0.0.1:1/keys", refresh=300, on_change=lambda _: None).load()


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
async def test_keys_of_this_host_come_through_no_proxy(site: str, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """The environment's proxy is another host, which would choose who is let in; nobody answers at this one."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    keys = open_keys(f"{scheme}{site.removeprefix('http')}/keys", refresh=300, on_change=lambda _: None)
    assert await keys.load() == ""


async def test_keys_of_a_file_follow_the_file(tmp_path: Path) -> None:
    """A rotation needs no restart."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(OLD))
    keys = open_keys(str(path), refresh=300, on_change=lambda _: None)
    assert await keys.load() == ""
    verifier = JwtVerifier(keys, RULES)
    path.write_bytes(key_set(NEW))
    while not await taken(verifier, NEW):
        await asyncio.sleep(0.05)
    assert not await taken(verifier, OLD)


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "http://10.0.0.1/keys",
        "http://127.0.0.1.evil.example/keys",
        "https://user:password@issuer.example/keys",
        "ftp://issuer.example/keys",
        "file:///etc/passwd",
        "https:///keys",
    ],
)
def test_urls_that_are_not_used(url: str) -> None:
    """Plain text beyond this host, other schemes, no host, and passwords in the command line."""
    with pytest.raises(StartupError, match="--jwt-keys must be a file, or an https URL"):
        open_keys(url, refresh=300, on_change=lambda _: None)
