"""A call of one of the server's methods, as those who count and trace calls know it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
"""What a caller sent along with a call: lower-case keys and their values, in order."""


@dataclass(kw_only=True, frozen=True, slots=True)
class RpcMethod:
    """A method as the metrics name it. A method that is not served is `_OTHER`, whatever the caller wrote."""

    type: str
    """unary, client_stream, server_stream or bidi_stream."""
    service: str
    """Full name of the service."""
    method: str

    @staticmethod
    def type_of(*, client_streaming: bool, server_streaming: bool) -> str:
        """Returns the type of a method by which sides send several messages."""
        if client_streaming:
            return "bidi_stream" if server_streaming else "client_stream"
        return "server_stream" if server_streaming else "unary"
