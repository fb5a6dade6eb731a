"""Images: their size, their pixels, and their files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Pixels:
    """A decoded image: rows of 8-bit RGB, top to bottom, `3 * width * height` bytes."""

    width: int
    height: int
    data: bytes


@dataclass(kw_only=True, frozen=True, slots=True)
class EncodedImage:
    """An image file."""

    mime_type: str
    data: bytes
    sha256: str
    """64 lower-case hexadecimal digits."""
