"""One call written by hand on a socket: for bytes that no gRPC client would send, and frames that it would hide.

HTTP/2 frames as in RFC 9113, section 4.1; headers as HPACK literals without indexing (RFC 7541, section 6.2.2).
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4


@dataclass(kw_only=True, frozen=True, slots=True)
class Frame:
    """A frame that the server sent on the call's stream."""

    type: int
    flags: int
    payload: bytes


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Returns a header field; names and values below 127 bytes."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


Metadata = tuple[tuple[bytes, bytes], ...]


async def begin(
    port: int, path: bytes, message: bytes, tls: ssl.SSLContext | None = None, metadata: Metadata = ()
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends one call with one message on a connection of its own, in plain text without `tls`, and returns it."""
    name = None if tls is None else "localhost"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
    headers = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *metadata,
    )
    block = b"".join(_literal(name, value) for name, value in headers)
    prefixed = b"\x00" + struct.pack(">I", len(message)) + message
    writer.write(PREFACE + _frame(SETTINGS, 0, 0, b""))
    writer.write(_frame(HEADERS, END_HEADERS, 1, block) + _frame(DATA, END_STREAM, 1, prefixed))
    await writer.drain()
    return reader, writer


async def call(
    port: int, path: bytes, message: bytes, tls: ssl.SSLContext | None = None, metadata: Metadata = ()
) -> list[Frame]:
    """Makes one call with one message and returns the frames of its answer, until the stream or connection ends."""
    reader, writer = await begin(port, path, message, tls, metadata)
    frames: list[Frame] = []
    try:
        while not (frames and (frames[-1].flags & END_STREAM or frames[-1].type == RST_STREAM)):
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if int.from_bytes(head[5:], "big") == 1 and head[3] in (DATA, HEADERS, RST_STREAM):
                frames.append(Frame(type=head[3], flags=head[4] if head[3] != RST_STREAM else 0, payload=payload))
    except asyncio.IncompleteReadError:
        pass  # the server closed the connection; what came before is the answer
    finally:
        if tls is not None:
            writer.transport.abort()  # gRPC does not answer the goodbye of TLS, for which asyncio waits
        writer.close()
        with suppress(ssl.SSLError):  # what the server sent after our goodbye
            await writer.wait_closed()
    return frames
