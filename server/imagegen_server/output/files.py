"""PNG, JPEG and WebP files from 8-bit RGB pixels.

Equal arguments give equal bytes: nothing in a file depends on time, host or thread. `encode` keeps no state and may
be called from many threads at once; the interpreter lock is free while it compresses.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image, PngImagePlugin

from imagegen_server.core import EncodedImage, GenerationRequest, Pixels
from imagegen_server.output.parameters import parameters_text
from imagegen_server.output.png import png

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_UNICODE_PREFIX = b"UNICODE\x00"
"""Character code of UserComment for Unicode text (Exif 2.32, 4.6.5, table 9)."""

_MAX_COMMENT_BYTES = 65_000
"""A JPEG APP1 segment holds 65,533 bytes, and the other Exif fields need under 100."""

_FULL_CHROMA_QUALITY = 90
"""From this JPEG quality on, colour is kept at full resolution: halving it would cost more than the quality gains."""


_PREVIEW_QUALITY = 85


def encode(pixels: Pixels, request: GenerationRequest, image_index: int, *, refined: bool = True) -> EncodedImage:
    """Returns the image file that the request's output settings ask for.

    PNG is always lossless; WebP is lossless at quality 100. With `embed_parameters`, PNG carries the text chunks
    `parameters` (see `parameters_text`) and `imagegen` (the request's own words as JSON, without its id); JPEG and
    WebP carry the former in the Exif field UserComment. Without it, the file has no metadata at all.

    Args:
        pixels: the decoded image.
        request: what was asked for.
        image_index: from 0.
        refined: false if the refiner was given up for this image.

    Raises ValueError for an unknown media type or for pixels whose data does not match their size.
    """
    writer = _WRITERS.get(request.output.mime_type)
    if writer is None:
        raise ValueError(f"unknown media type {request.output.mime_type!r}")
    if len(pixels.data) != 3 * pixels.width * pixels.height:
        raise ValueError(f"{len(pixels.data)} bytes are no {pixels.width}x{pixels.height} RGB image")
    text = parameters_text(request, image_index, refined=refined) if request.output.embed_parameters else None
    data = writer(pixels, request, text)
    return EncodedImage(mime_type=request.output.mime_type, data=data, sha256=hashlib.sha256(data).hexdigest())


def encode_preview(pixels: Pixels) -> EncodedImage:
    """Returns a WebP for a glance: lossy, without metadata; 64x64 pixels take under a kilobyte and half a millisecond.

    Raises ValueError for pixels whose data does not match their size.
    """
    data = _saved(pixels, "WEBP", quality=_PREVIEW_QUALITY, method=0)
    return EncodedImage(mime_type="image/webp", data=data, sha256=hashlib.sha256(data).hexdigest())


def _png(pixels: Pixels, request: GenerationRequest, text: str | None) -> bytes:
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_text("parameters", text)
        words = {name: value for name, value in request.parameters.items() if name != "request_id"}
        if words:
            info.add_text("imagegen", json.dumps(words, ensure_ascii=False, sort_keys=True))
    return png(pixels, [(chunk[0], chunk[1]) for chunk in info.chunks])


def _jpeg(pixels: Pixels, request: GenerationRequest, text: str | None) -> bytes:
    """Returns a baseline JPEG."""
    quality = request.output.quality
    subsampling = "4:4:4" if quality >= _FULL_CHROMA_QUALITY else "4:2:0"
    return _saved(pixels, "JPEG", quality=quality, subsampling=subsampling, exif=_exif(text))


def _webp(pixels: Pixels, request: GenerationRequest, text: str | None) -> bytes:
    """Returns a WebP; in lossless mode, libwebp's quality is effort and 20 with method 1 is near its fastest."""
    if request.output.quality == 100:
        return _saved(pixels, "WEBP", lossless=True, quality=20, method=1, exif=_exif(text))
    return _saved(pixels, "WEBP", quality=request.output.quality, method=2, exif=_exif(text))


def _saved(pixels: Pixels, form: str, **options: Any) -> bytes:
    """Returns what Pillow writes."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data).save(buffer, form, **options)
    return buffer.getvalue()


def _exif(text: str | None) -> bytes:
    """Returns an Exif block with the text as UserComment, cut to what a JPEG can hold; empty without text.

    The text is UTF-16 in the byte order of the block's header, which Pillow writes as big-endian.
    """
    if text is None:
        return b""
    encoded = text.encode("utf-16-be", errors="replace")
    if len(encoded) > _MAX_COMMENT_BYTES:
        encoded = encoded[:_MAX_COMMENT_BYTES].decode("utf-16-be", errors="ignore").encode("utf-16-be")
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE_PREFIX + encoded
    return exif.tobytes()


_WRITERS: Mapping[str, Callable[[Pixels, GenerationRequest, str | None], bytes]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
}

MIME_TYPES = tuple(_WRITERS)
"""The media types that `encode` writes, the default first."""
