"""The images' port: exactly the images, with the right headers, and nothing else whatever is asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from imagegen_server.http_server import MAX_CONNECTIONS, HttpServer
from imagegen_server.output.store import ImageStore, Limits, ReadOutcome, images_app
from imagegen_server.output.store.bucket import Bucket
from support.http import Answer, get
from support.store import Ledger, Trouble, picture


class Site:
    """A store in memory and its port."""

    def __init__(self) -> None:
        self.files = Trouble()
        self.ledger = Ledger()
        self.store = ImageStore(Bucket(self.files, "bucket"), Limits(), self.ledger)
        self.server = HttpServer(images_app(self.store.get, self.ledger), host="127.0.0.1", port=0, purpose="images")
        self.server.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.port


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One for all tests."""
    made = Site()
    yield made
    made.server.stop()


def fetched(site: Site, name: str, method: str = "GET", **headers: str) -> Answer:
    """Returns the answer to a request for an image."""
    return get(site.port, f"/images/{name}", method, **headers)


@pytest.mark.parametrize(("mime_type", "ending"), [("image/png", "png"), ("image/jpeg", "jpg"), ("image/webp", "webp")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_image(site: Site, mime_type: str, ending: str, method: str) -> None:
    """Its bytes, its type, its size, its tag; it may be kept for ever, by who asked for it."""
    image = picture(mime_type)
    image = type(image)(mime_type=mime_type, data=image.data, sha256=image.sha256)
    name = site.store.put(image, b"{}")
    answer = fetched(site, name, method)
    assert (answer.status, answer.body) == (200, image.data if method == "GET" else b"")
    assert name.endswith(ending)
    headers = {key: value for key, value in answer.headers.items() if key not in ("date", "server")}
    assert headers == {
        "content-type": mime_type,
        "content-length": "1000",
        "etag": f'"{image.sha256}"',
        "cache-control": "private, max-age=31536000, immutable",
        "x-content-type-options": "nosniff",
    }


def test_who_has_the_image_is_told_so(site: Site) -> None:
    """If-None-Match in each of its forms; another tag gets the image."""
    name = site.store.put(picture(), b"{}")
    tag = f'"{picture().sha256}"'
    for value in (tag, f"W/{tag}", f'"x", {tag}'):
        answer = fetched(site, name, if_none_match=value)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
        assert "content-length" not in answer.headers, "it would be the image's (RFC 9110, 8.6)"
    assert fetched(site, name, if_none_match='"x"').status == 200


HASH = picture().sha256
WRONG = [
    "",
    "..",
    f"../{HASH}.png",
    f"..%2f{HASH}.png",
    f"%2e%2e/images/{HASH}.png",
    f"./{HASH}.png",
    f"/{HASH}.png",
    f"x/{HASH}.png",
    f"{HASH}.json",
    f"{HASH}",
    f"{HASH}.PNG",
    f"{HASH.upper()}.png",
    f"{HASH}.png/",
    f"{HASH}.png%00",
    f"{HASH}.png%0a",
    f"{HASH}.png.partial",
    f".{HASH}.png.1.abcd.partial",
    ".lock",
    f"{HASH[:-1]}.png",
    f"{HASH}0.png",
    f"{HASH}.gif",
    f"{'0' * 64}.png",
    "%ff%fe",
]


@pytest.mark.parametrize("name", WRONG)
def test_nothing_else(site: Site, name: str) -> None:
    """404 without a word about what was asked for, and nothing may keep it."""
    site.store.put(picture(), b'{"prompt": "secret"}')
    answer = fetched(site, name)
    assert (answer.status, answer.body) == (404, b"Not Found\n")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/images", "/Images/", "/etc/passwd", "/metrics", "*"])
def test_no_other_place(site: Site, path: str) -> None:
    """There is nothing beside the images, and no list of them."""
    target = f"{path}{HASH}.png" if path.endswith("/") and path != "/" else path
    assert get(site.port, target).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(site: Site, method: str) -> None:
    """Fetching is all."""
    name = site.store.put(picture(), b"{}")
    answer = fetched(site, name, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert fetched(site, name).status == 200


def test_a_store_that_fails(site: Site) -> None:
    """503 and when to come back; nothing of the error reaches the caller. 404 is for what is not there."""
    name = site.store.put(picture("failing"), b"{}")
    before = site.ledger.reads.copy()
    site.files.error = OSError(5, "secret path")
    answer = fetched(site, name)
    site.files.error = None
    assert (answer.status, answer.headers["retry-after"], answer.body) == (503, "5", b"Service Unavailable\n")
    assert fetched(site, name).status == 200
    assert site.ledger.reads - before == {ReadOutcome.FAILED: 1, ReadOutcome.OK: 1}


def test_a_damaged_image_is_not_served(site: Site) -> None:
    """A part of a file, say: not even its first byte."""
    image = picture("damaged")
    name = site.store.put(image, b"{}")
    site.store.files.write(name, image.data[:500])
    assert [fetched(site, name, method).status for method in ("GET", "HEAD")] == [503, 503]
    assert site.ledger.reads[ReadOutcome.DAMAGED] == 2


def test_connections_are_bounded(site: Site) -> None:
    """Who opens many and says nothing keeps nobody out: the first of them is closed for one more."""
    name = site.store.put(picture(), b"{}")
    silent = [socket.create_connection(("127.0.0.1", site.port), timeout=30) for _ in range(MAX_CONNECTIONS)]
    try:
        assert fetched(site, name).status == 200
        assert silent[0].recv(1) == b""
    finally:
        for connection in silent:
            connection.close()
