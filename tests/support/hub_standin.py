"""A small stand-in for the Hugging Face hub on loopback: directories served as repositories, with cuts on demand.

Answers what huggingface_hub asks for a model: the revision, the file tree, and files with byte ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LARGE = 1 << 20
"""Files from this size on are described as LFS files, as the hub does."""


@dataclass
class Served:
    """One answered request for a file."""

    path: str
    start: int
    """First byte that was asked for."""
    sent: int
    """Bytes of the answer."""


@dataclass
class Hub:
    """What the stand-in serves and what it saw."""

    repositories: dict[str, tuple[str, Path]]
    """owner/name -> commit, directory."""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """Method and path of everything that was asked."""
    served: list[Served] = field(default_factory=list)
    """Files that were sent, whole or in part."""
    cut_after: dict[str, int] = field(default_factory=dict)
    """File name -> bytes after which the connection is closed, once."""
    hidden: set[str] = field(default_factory=set)
    """Files that are listed and answer 404."""

    def downloads(self, name: str) -> list[Served]:
        """Returns what was sent of the files whose path ends with `name`."""
        return [served for served in self.served if served.path.endswith(name)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing when a client is killed in the middle, which is one of the things that are tested."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typed for sockets


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Keeps the test's output clean."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            self._describe(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], body=body)
        else:
            self._fail("RepoNotFound")

    def _repository(self, name: str, revision: str) -> tuple[str, Path] | None:
        if name not in self.hub.repositories:
            self._fail("RepoNotFound")
            return None
        commit, directory = self.hub.repositories[name]
        if revision not in (commit, "main"):
            self._fail("RevisionNotFound")
            return None
        return commit, directory

    def _describe(self, name: str, what: str, revision: str) -> None:
        if (found := self._repository(name, revision)) is None:
            return
        commit, directory = found
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        if what == "tree":
            self._json([_entry(path, directory) for path in files])
        else:
            siblings = [{"rfilename": path.relative_to(directory).as_posix()} for path in files]
            self._json({"id": name, "modelId": name, "sha": commit, "siblings": siblings})

    def _file(self, name: str, revision: str, file: str, *, body: bool) -> None:
        if (found := self._repository(name, revision)) is None:
            return
        commit, directory = found
        path = directory / file
        if not path.is_file() or file in self.hub.hidden:
            self._fail("EntryNotFound")
            return
        content = path.read_bytes()
        start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in self.headers else 0
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self._send(file, content, start)

    def _send(self, file: str, content: bytes, start: int) -> None:
        limit = self.hub.cut_after.pop(file, None)
        part = content[start:] if limit is None else content[start : start + limit]
        self.hub.served.append(Served(path=file, start=start, sent=len(part)))
        self.wfile.write(part)
        self.wfile.flush()
        if limit is not None:
            self.close_connection = True
            self.connection.close()

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, code: str) -> None:
        self.send_response(HTTPStatus.NOT_FOUND)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(content: bytes) -> str:
    """Returns what the hub uses: SHA-256 for large files, git's blob id for the others."""
    if len(content) >= _LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _entry(path: Path, directory: Path) -> dict[str, object]:
    content = path.read_bytes()
    entry: dict[str, object] = {
        "type": "file",
        "path": path.relative_to(directory).as_posix(),
        "size": len(content),
        "oid": _etag(content),
    }
    if len(content) >= _LARGE:
        entry["lfs"] = {"oid": _etag(content), "size": len(content), "pointerSize": 134}
    return entry


@contextmanager
def serve(repositories: dict[str, tuple[str, Path]]) -> Iterator[Hub]:
    """Serves the repositories until the context ends; `hub.url` is the endpoint."""
    hub = Hub(repositories=repositories)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
