"""HTTP by hand: a request goes out as it was given, and whatever comes back is an answer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(kw_only=True, frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON by its header as well."""
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)

    def details(self) -> dict[str, Any]:
        """Returns the details of a google.rpc.Status as JSON, by the name of their type."""
        return {detail["@type"].rpartition(".")[2]: detail for detail in self.json["details"]}


def fetch(url: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Returns the answer to a request for a URL, whatever its status."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return _ask(parts.netloc, method, target, body, headers or {}, timeout=60)


def get(port: int, target: str, method: str = "GET", **headers: str) -> Answer:
    """Returns the answer of a port of 127.0.0.1, whatever its status.

    Args:
        port: where to ask.
        target: what the request line has; need not be a path that a URL can have.
        method: GET or another one without a body.
        headers: with underscores for hyphens.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _ask(f"127.0.0.1:{port}", method, target, None, named, timeout=30)


def _ask(
    address: str, method: str, target: str, body: bytes | None, headers: Mapping[str, str], *, timeout: float
) -> Answer:
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        named = any(name.lower() == "host" for name in headers)
        connection.putrequest(method, target, skip_host=named, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        found = connection.getresponse()
        fields = {name.lower(): value for name, value in found.getheaders()}
        return Answer(status=found.status, headers=fields, body=found.read())
    finally:
        connection.close()
