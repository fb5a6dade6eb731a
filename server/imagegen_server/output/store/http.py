"""The images over HTTP: `GET` and `HEAD` of `/images/NAME`, nothing else.

A name is the hash of what it names, so an answer never changes and only who was told a name can ask for it. Callers'
browsers may keep answers for ever; caches that callers share may not, since an image belongs to whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from imagegen_server.output.store import names
from imagegen_server.output.store.observer import ReadOutcome, StoreObserver
from imagegen_server.output.store.store import Damaged

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PREFIX: Final = "/images/"
_FOR_EVER: Final = "private, max-age=31536000, immutable"
_RETRY_AFTER: Final = "5"
"""Seconds."""
_COMMON: Final = (("X-Content-Type-Options", "nosniff"),)
_NOTHING: Final = (*_COMMON, ("Cache-Control", "no-store"))

Headers = tuple[tuple[str, str], ...]


def images_app(get: Callable[[str], bytes], observer: StoreObserver) -> WSGIApplication:
    """Returns the application that serves images.

    Args:
        get: returns an image by its exact name; raises FileNotFoundError, Damaged, or whatever the store raises.
        observer: hears how each fetch ended.
    """

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = _answer(environ, get, observer)
        if status.startswith("304"):
            start_response(status, list(headers))
            return iter((body,))  # of a list wsgiref tells the length, which would be taken for the image's
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return app


def _answer(
    environ: WSGIEnvironment, get: Callable[[str], bytes], observer: StoreObserver
) -> tuple[str, Headers, bytes]:
    """Returns status, headers and body."""
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return _error("405 Method Not Allowed", ("Allow", "GET, HEAD"))
    path = str(environ.get("PATH_INFO", ""))
    name = path.removeprefix(PREFIX)
    if not path.startswith(PREFIX) or not names.is_image(name):
        return _error("404 Not Found")
    lasting = (*_COMMON, ("Cache-Control", _FOR_EVER), ("ETag", f'"{name.partition(".")[0]}"'))
    if _has_it(environ, name):
        observer.read(ReadOutcome.NOT_MODIFIED, None)
        return "304 Not Modified", lasting, b""
    try:
        data = get(name)
    except Exception as error:  # noqa: BLE001 - told to the observer, and to the caller as what it is
        outcome = _outcome(error)
        observer.read(outcome, error)
        if outcome is ReadOutcome.NOT_FOUND:
            return _error("404 Not Found")
        return _error("503 Service Unavailable", ("Retry-After", _RETRY_AFTER))
    observer.read(ReadOutcome.OK, None)
    media_type = names.MEDIA_TYPES[name.rpartition(".")[2]]
    return "200 OK", (*lasting, ("Content-Type", media_type)), data


def _has_it(environ: Mapping[str, object], name: str) -> bool:
    """Returns whether the caller says that it has the image."""
    known = {tag.strip().removeprefix("W/") for tag in str(environ.get("HTTP_IF_NONE_MATCH", "")).split(",")}
    return f'"{name.partition(".")[0]}"' in known


def _outcome(error: Exception) -> ReadOutcome:
    if isinstance(error, Damaged):
        return ReadOutcome.DAMAGED
    return ReadOutcome.NOT_FOUND if isinstance(error, FileNotFoundError) else ReadOutcome.FAILED


def _error(status: str, *more: tuple[str, str]) -> tuple[str, Headers, bytes]:
    return status, (*_NOTHING, *more, ("Content-Type", "text/plain; charset=utf-8")), f"{status[4:]}\n".encode()
