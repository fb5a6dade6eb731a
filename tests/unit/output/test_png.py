"""PNG files against readers that we did not write: Pillow's, and libpng."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import io
import random
import zlib

import pytest
from PIL import Image, PngImagePlugin

from bench.encoding import picture
from imagegen_server.core import Pixels
from imagegen_server.output.png import png

SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (64, 64), (129, 31), (401, 457), (200_000, 1)]


def noise(width: int, height: int) -> Pixels:
    return Pixels(width=width, height=height, data=random.Random(width * height).randbytes(3 * width * height))


def ramp(width: int, height: int) -> Pixels:
    """Every value and every step between neighbours, so that predictions overflow and underflow a byte."""
    data = bytes((x * x * 7 + y * 31 + c * 85) % 256 for y in range(height) for x in range(width) for c in range(3))
    return Pixels(width=width, height=height, data=data)


def libpng() -> ctypes.CDLL:
    """Returns the system's libpng, or the one that comes in Pillow's wheel."""
    bundled = [
        str(path.locate()) for path in importlib.metadata.files("pillow") or [] if path.name.startswith("libpng16")
    ]
    for name in (ctypes.util.find_library("png16"), *bundled):
        if name:
            return ctypes.CDLL(name)
    pytest.skip("no libpng here")


class _Image(ctypes.Structure):
    """png_image of libpng's simplified interface (png.h, version 1.6)."""

    _fields_ = (
        ("opaque", ctypes.c_void_p),
        ("version", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("format", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("colormap_entries", ctypes.c_uint32),
        ("warning_or_error", ctypes.c_uint32),
        ("message", ctypes.c_char * 64),
    )


def read_by_libpng(library: ctypes.CDLL, data: bytes) -> Pixels:
    """Returns the pixels as 8-bit RGB. Raises AssertionError with libpng's words if it has any."""
    image = _Image(version=1)
    assert library.png_image_begin_read_from_memory(ctypes.byref(image), data, ctypes.c_size_t(len(data))), (
        image.message
    )
    image.format = 0x02  # PNG_FORMAT_RGB
    buffer = ctypes.create_string_buffer(3 * image.width * image.height)
    assert library.png_image_finish_read(ctypes.byref(image), None, buffer, 0, None), image.message
    assert image.warning_or_error == 0, image.message
    return Pixels(width=image.width, height=image.height, data=buffer.raw)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [noise, ramp])
def test_readers_get_the_pixels_that_went_in(size: tuple[int, int], kind: type) -> None:
    """Byte for byte, at sizes down to one pixel."""
    pixels: Pixels = kind(*size)
    data = png(pixels)
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", size)
        assert opened.tobytes() == pixels.data
    assert read_by_libpng(libpng(), data) == pixels


def test_a_large_picture_is_exact_and_no_larger_than_pillows() -> None:
    """1024x1024 with grain, and the text that was given is where readers look for it."""
    pixels, info = picture(), PngImagePlugin.PngInfo()
    info.add_text("parameters", "a star")
    data = png(pixels, [(chunk[0], chunk[1]) for chunk in info.chunks])
    assert read_by_libpng(libpng(), data) == pixels
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.tobytes() == pixels.data
        assert opened.info == {"parameters": "a star"}
    theirs = io.BytesIO()
    Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data).save(
        theirs, "PNG", compress_level=1, compress_type=zlib.Z_RLE
    )
    assert len(data) <= len(theirs.getvalue())
