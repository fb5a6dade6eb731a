"""PNG files, written here: every row is predicted by the average of its neighbours, and only runs are matched.

A PNG writer may choose a filter for each row; libraries try all five, which takes longer than compressing. For pictures
with grain, as cameras and decoders of latents make them, the average is the best of the five or close to it
(PNG specification, 3rd edition, 9.2), and the search for matches other than runs finds next to nothing. The files
are no larger than those that trying everything gives.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from imagegen_server.core import Pixels

Chunk = tuple[bytes, bytes]
"""A chunk's type and data."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_RGB: Final = 2
_AVERAGE: Final = 3
_BYTES_PER_PIXEL: Final = 3
_MEMORY_LEVEL: Final = 9
_ZLIB_HEADER: Final = b"\x78\x01"
"""A window of 32 KiB, the fastest level."""
_SPLIT_BYTES: Final = 2**19
"""From here on, starting a thread costs nothing against what it saves."""


def png(pixels: Pixels, texts: Sequence[Chunk] = ()) -> bytes:
    """Returns the file, with chunks of text before the image data. Equal arguments give equal bytes.

    The data is one chunk: the format allows 2 GiB, and the settings no picture that would need more.
    """
    header = struct.pack(">IIBBBBB", pixels.width, pixels.height, 8, _RGB, 0, 0, 0)
    data = (b"IDAT", _compressed(_filtered(pixels)))
    chunks = [(b"IHDR", header), *texts, data, (b"IEND", b"")]
    return b"".join([_SIGNATURE, *(part for kind, content in chunks for part in _framed(kind, content))])


def _filtered(pixels: Pixels) -> np.ndarray:
    """Returns the rows, each after its filter's number: what is left of each byte without the average prediction."""
    width = _BYTES_PER_PIXEL * pixels.width
    rows = np.frombuffer(pixels.data, np.uint8).reshape(pixels.height, width)
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, _BYTES_PER_PIXEL:] = rows[:, :-_BYTES_PER_PIXEL]
    above[1:] = rows[:-1]
    filtered = np.empty((pixels.height, width + 1), np.uint8)
    filtered[:, 0] = _AVERAGE
    # (a + b) // 2 == (a & b) + ((a ^ b) >> 1), which does not overflow a byte
    common = left & above
    left ^= above
    left >>= 1
    left += common
    np.subtract(rows, left, out=filtered[:, 1:])  # modulo 256, as the format wants
    return filtered


def _compressed(filtered: np.ndarray) -> bytes:
    """Returns a zlib stream (RFC 1950); of a large picture, both halves are compressed at the same time.

    How it is cut depends on the size alone, so that equal pixels give equal bytes.
    """
    rows = len(filtered)
    if filtered.nbytes < _SPLIT_BYTES:
        pieces = [_deflated(filtered, last=True)]
    else:
        with ThreadPoolExecutor(1, thread_name_prefix="png") as second:
            lower = second.submit(_deflated, filtered[rows // 2 :], last=True)
            pieces = [_deflated(filtered[: rows // 2], last=False), lower.result()]
    return b"".join([_ZLIB_HEADER, *pieces, struct.pack(">I", zlib.adler32(filtered.data))])


def _deflated(rows: np.ndarray, *, last: bool) -> bytes:
    """Returns the rows as raw deflate blocks (RFC 1951), the final one among them or, byte-aligned, not."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, _MEMORY_LEVEL, zlib.Z_RLE)
    return deflate.compress(rows.data) + deflate.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


def _framed(kind: bytes, content: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
