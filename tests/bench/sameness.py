"""Whether what is compared does the same work: times of different images mean nothing."""

from __future__ import annotations

import io


class DifferentImagesError(Exception):
    """What is compared did not make the same image, so that the times cannot be compared."""


def pixels(file: bytes) -> bytes:
    """Returns an image file's pixels, as RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return image.convert("RGB").tobytes()
