"""Fetching from the images' port, byte by byte as it comes."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(kw_only=True, frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


def get(port: int, name: str, method: str = "GET", *, path: str = "/images/", **headers: str) -> Answer:
    """Returns the answer to a request; `headers` with underscores for hyphens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, f"{path}{name}", skip_accept_encoding=True)
        for header, value in headers.items():
            connection.putheader(header.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        fields = {key.lower(): value for key, value in answer.getheaders()}
        return Answer(status=answer.status, headers=fields, body=answer.read())
    finally:
        connection.close()
