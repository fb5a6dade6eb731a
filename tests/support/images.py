"""Images as others see them: read byte by byte, without an image library."""

from __future__ import annotations

import struct
import zlib


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Returns names and contents of a PNG's chunks, after their checksums."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(name + content),)
        chunks.append((name, content))
        at += 12 + size
    return chunks


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """Returns markers and contents of a JPEG's segments up to the image itself."""
    assert data.startswith(b"\xff\xd8")
    segments, at = [], 2
    while data[at + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", data, at + 2)
        segments.append((data[at + 1], data[at + 4 : at + 2 + size]))
        at += 2 + size
    return segments


def webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Returns names and contents of a WebP's chunks."""
    assert (data[:4], data[8:12]) == (b"RIFF", b"WEBP")
    assert struct.unpack_from("<I", data, 4) == (len(data) - 8,)
    chunks, at = [], 12
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at + 4)
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return chunks
