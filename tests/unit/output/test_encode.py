"""Image files: exact pixels, equal bytes, metadata there or not."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, JpegImagePlugin

from imagegen_server import core
from imagegen_server.output import MIME_TYPES, encode, encode_preview
from support.images import jpeg_segments, png_chunks, webp_chunks

MakeRequest = Callable[..., core.GenerationRequest]

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286

PROMPT = 'un château "en hiver", 雪の城 🏰\nsecond line'


def _open(image: core.EncodedImage) -> Image.Image:
    opened = Image.open(io.BytesIO(image.data))
    opened.load()
    return opened


def _user_comment(image: core.EncodedImage) -> str:
    raw: bytes = _open(image).getexif().get_ifd(_EXIF_IFD)[_USER_COMMENT]
    assert raw.startswith(b"UNICODE\x00")
    return raw[8:].decode("utf-16-be")


@pytest.mark.parametrize(
    ("mime_type", "quality", "form"),
    [("image/png", 90, "PNG"), ("image/png", 1, "PNG"), ("image/webp", 100, "WEBP")],
)
def test_lossless_formats_keep_every_pixel(
    make_request: MakeRequest, pixels: core.Pixels, mime_type: str, quality: int, form: str
) -> None:
    """PNG, whatever the quality, and WebP at quality 100 decode to the pixels that went in."""
    image = encode(pixels, make_request(output={"mime_type": mime_type, "quality": quality}), 0)
    opened = _open(image)
    assert (opened.format, opened.mode, opened.size) == (form, "RGB", (37, 21))
    assert opened.tobytes() == pixels.data


@pytest.mark.parametrize(("mime_type", "form"), [("image/jpeg", "JPEG"), ("image/webp", "WEBP")])
def test_lossy_formats_come_close_and_obey_quality(
    make_request: MakeRequest, pixels: core.Pixels, mime_type: str, form: str
) -> None:
    """A lossy file decodes to a similar picture of the same size, in more bytes the higher the quality."""
    sizes = []
    for quality in (10, 60, 95):
        image = encode(pixels, make_request(output={"mime_type": mime_type, "quality": quality}), 0)
        opened = _open(image)
        assert (opened.format, opened.size, image.mime_type) == (form, (37, 21), mime_type)
        sizes.append(len(image.data))
    error = sum(abs(a - b) for a, b in zip(opened.tobytes(), pixels.data, strict=True)) / len(pixels.data)
    assert error < 25  # half of the blue channel is noise, which no lossy format keeps
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize(("quality", "sampling"), [(1, "4:2:0"), (89, "4:2:0"), (90, "4:4:4"), (100, "4:4:4")])
def test_a_good_jpeg_keeps_all_of_its_colour(
    make_request: MakeRequest, pixels: core.Pixels, quality: int, sampling: str
) -> None:
    """From quality 90 on; below, colour has half the resolution."""
    image = encode(pixels, make_request(output={"mime_type": "image/jpeg", "quality": quality}), 0)
    assert {0: "4:4:4", 2: "4:2:0"}[JpegImagePlugin.get_sampling(_open(image))] == sampling


@pytest.mark.parametrize("mime_type", MIME_TYPES)
@pytest.mark.parametrize("embed", [True, False])
def test_equal_arguments_give_equal_bytes_on_any_thread(
    make_request: MakeRequest, pixels: core.Pixels, mime_type: str, embed: bool
) -> None:
    """Sixteen encodings on eight threads are one and the same file, with its own SHA-256."""
    request = make_request(output={"mime_type": mime_type, "embed_parameters": embed})
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda _: encode(pixels, request, 1), range(16)))
    assert len({image.data for image in images}) == 1
    assert {image.sha256 for image in images} == {hashlib.sha256(images[0].data).hexdigest()}


def test_the_request_id_does_not_reach_the_file(make_request: MakeRequest, pixels: core.Pixels) -> None:
    """Two requests that differ in their id only give the same bytes."""
    first = encode(pixels, make_request(request_id="a", parameters={"request_id": "a", "seed": 41}), 0)
    second = encode(pixels, make_request(request_id="b", parameters={"request_id": "b", "seed": 41}), 0)
    assert first == second


def test_png_carries_text_and_the_requests_own_words(make_request: MakeRequest, pixels: core.Pixels) -> None:
    """A PNG has the chunk `parameters` for viewers and `imagegen` as JSON, both with the prompt unharmed."""
    request = make_request(prompt=PROMPT, parameters={"seed": 41, "prompt": PROMPT})
    opened = _open(encode(pixels, request, 1))
    assert set(opened.info) == {"parameters", "imagegen"}
    assert opened.info["parameters"].startswith(PROMPT + "\nSteps: 50, ")
    assert "Seed: 42, Size: 37x21, " in opened.info["parameters"]
    assert json.loads(opened.info["imagegen"]) == {"seed": 41, "prompt": PROMPT}


@pytest.mark.parametrize("mime_type", ["image/jpeg", "image/webp"])
def test_exif_carries_text(make_request: MakeRequest, pixels: core.Pixels, mime_type: str) -> None:
    """JPEG and WebP carry the same text as PNG, as Unicode in the Exif UserComment."""
    request = make_request(prompt=PROMPT, output={"mime_type": mime_type})
    png = _open(encode(pixels, make_request(prompt=PROMPT), 0))
    assert _user_comment(encode(pixels, request, 0)) == png.info["parameters"]


@pytest.mark.parametrize("mime_type", MIME_TYPES)
def test_a_file_does_not_claim_a_refiner_that_was_given_up(
    make_request: MakeRequest, pixels: core.Pixels, mime_type: str
) -> None:
    """It says of the refiner what was done, not what was asked for."""
    request, words = make_request(output={"mime_type": mime_type}), (b"Refiner", "Refiner".encode("utf-16-be"))
    files = [encode(pixels, request, 0, refined=refined).data for refined in (True, False)]
    assert [any(word in data for word in words) for data in files] == [True, False]


@pytest.mark.parametrize("mime_type", MIME_TYPES)
def test_without_embedding_there_is_no_metadata(make_request: MakeRequest, pixels: core.Pixels, mime_type: str) -> None:
    """embed_parameters=False leaves neither text nor Exif, and no word of the prompt in the bytes."""
    request = make_request(prompt="zebra", output={"mime_type": mime_type, "embed_parameters": False})
    image = encode(pixels, request, 0)
    opened = _open(image)
    assert dict(opened.getexif()) == {}
    assert not {"parameters", "imagegen", "exif", "comment", "xmp"} & set(opened.info)
    assert b"zebra" not in image.data
    assert "zebra".encode("utf-16-be") not in image.data


@pytest.mark.parametrize("embed", [True, False])
def test_png_has_these_chunks_and_no_others(make_request: MakeRequest, pixels: core.Pixels, embed: bool) -> None:
    """Read byte by byte, as any viewer may: Latin text in tEXt, any other in iTXt, before the image."""
    for prompt, kind in (("a castle", b"tEXt"), (PROMPT, b"iTXt")):
        request = make_request(prompt=prompt, parameters={"prompt": prompt}, output={"embed_parameters": embed})
        chunks = png_chunks(encode(pixels, request, 0).data)
        kinds = [name for name, _ in chunks if name != b"IDAT"]
        assert kinds == ([b"IHDR", kind, kind, b"IEND"] if embed else [b"IHDR", b"IEND"])
        if embed:
            separator = b"\0" if kind == b"tEXt" else b"\0\0\0\0\0"
            keyword, _, text = chunks[1][1].partition(separator)
            assert keyword == b"parameters"
            assert text.decode("latin-1" if kind == b"tEXt" else "utf-8").startswith(prompt + "\nSteps: 50, Sampler: ")


@pytest.mark.parametrize("embed", [True, False])
def test_jpeg_has_these_segments_and_no_others(make_request: MakeRequest, pixels: core.Pixels, embed: bool) -> None:
    """Exif in APP1 right after JFIF's own APP0, or no application's segment and no comment at all."""
    request = make_request(prompt=PROMPT, output={"mime_type": "image/jpeg", "embed_parameters": embed})
    segments = jpeg_segments(encode(pixels, request, 0).data)
    extra = [(marker, data) for marker, data in segments if 0xE0 <= marker <= 0xEF or marker == 0xFE]
    assert [marker for marker, _ in extra] == ([0xE0, 0xE1] if embed else [0xE0])
    if embed:
        assert extra[1][1].startswith(b"Exif\0\0MM\0*")
        assert b"UNICODE\0" + PROMPT.encode("utf-16-be") in extra[1][1]


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("quality", [90, 100])
def test_webp_has_these_chunks_and_no_others(
    make_request: MakeRequest, pixels: core.Pixels, embed: bool, quality: int
) -> None:
    """Exif in a chunk of the extended form, or the simple form with the image alone."""
    output = {"mime_type": "image/webp", "embed_parameters": embed, "quality": quality}
    chunks = webp_chunks(encode(pixels, make_request(prompt=PROMPT, output=output), 0).data)
    image = b"VP8L" if quality == 100 else b"VP8 "
    assert [name for name, _ in chunks] == ([b"VP8X", image, b"EXIF"] if embed else [image])
    if embed:
        assert b"UNICODE\0" + PROMPT.encode("utf-16-be") in chunks[2][1]


def test_text_beyond_a_jpeg_segment_is_cut(make_request: MakeRequest, pixels: core.Pixels) -> None:
    """A text too long for Exif is cut between characters, and the file stays readable."""
    request = make_request(prompt="🏰" * 40_000, output={"mime_type": "image/jpeg"})
    comment = _user_comment(encode(pixels, request, 0))
    assert set(comment) == {"🏰"}
    assert 15_000 < len(comment) < 17_000


def test_a_null_character_does_not_end_the_text(make_request: MakeRequest, pixels: core.Pixels) -> None:
    """A prompt with a NUL, which would end a PNG text, is embedded without it."""
    opened = _open(encode(pixels, make_request(prompt="before\x00after"), 0))
    assert opened.info["parameters"].startswith("beforeafter\nSteps: 50")


def test_a_preview_is_a_small_webp(pixels: core.Pixels) -> None:
    """Of the same size, lossy and without metadata; pixels that do not match their size are refused here too."""
    preview = encode_preview(pixels)
    opened = _open(preview)
    assert (opened.format, opened.size, preview.mime_type) == ("WEBP", (37, 21), "image/webp")
    assert preview.sha256 == hashlib.sha256(preview.data).hexdigest()
    assert [kind for kind, _ in webp_chunks(preview.data)] == [b"VP8 "]
    with pytest.raises(ValueError, match="not enough image data"):
        encode_preview(core.Pixels(width=37, height=22, data=pixels.data))


def test_unknown_media_type_is_an_error(make_request: MakeRequest, pixels: core.Pixels) -> None:
    """A media type without a writer raises ValueError and names it."""
    with pytest.raises(ValueError, match="image/gif"):
        encode(pixels, make_request(output={"mime_type": "image/gif"}), 0)


def test_pixels_of_the_wrong_length_are_an_error(make_request: MakeRequest) -> None:
    """Pixels whose bytes do not match their size raise ValueError with the numbers."""
    with pytest.raises(ValueError, match="11 bytes are no 2x2 RGB image"):
        encode(core.Pixels(width=2, height=2, data=bytes(11)), make_request(), 0)
