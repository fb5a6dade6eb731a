"""Previews on a terminal: what is written is what the terminal's protocol says, and shows the picture."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from imagegen import _cli_preview
from imagegen._cli_parser import UsageError, build_parser, generation_options


def webp(width: int = 8, height: int = 8) -> bytes:
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "mintty"}, "sixel"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({}, "blocks"),
    ],
)
def test_the_protocol_is_the_terminals_best(environment: dict[str, str], protocol: str) -> None:
    """And half blocks wherever nothing better is known."""
    assert _cli_preview.detect(environment) == protocol


def test_half_blocks_show_two_pixels_each() -> None:
    """A line for two rows, each cell with the colours of both, and the colours are taken back at its end."""
    lines = _cli_preview.render(webp(), "blocks").splitlines()
    assert len(lines) == 16
    for line in lines:
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+)m\x1b\[48;2;(\d+);(\d+);(\d+)m▀", line)
        assert len(cells) == 32
        assert cells[0] == ("255", "0", "0", "255", "0", "0")
        assert cells[-1] == ("0", "0", "255", "0", "0", "255")
        assert line.endswith("\x1b[0m")


def test_half_blocks_keep_the_proportions() -> None:
    """A picture twice as wide as high takes half the lines."""
    assert len(_cli_preview.render(webp(16, 8), "blocks").splitlines()) == 8


def test_kitty_gets_a_png_in_parts() -> None:
    """Only the first part says what comes, each but the last that more does, and together they are the picture."""
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "WEBP", lossless=True)
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", _cli_preview.render(buffer.getvalue(), "kitty"))
    keys = [keys for keys, _ in commands]
    assert len(keys) > 2
    assert keys == ["a=T,f=100,m=1", *["m=1"] * (len(keys) - 2), "m=0"]
    assert all(len(part) <= 4096 for _, part in commands)
    with Image.open(io.BytesIO(base64.b64decode("".join(part for _, part in commands)))) as shown:
        assert (shown.format, shown.size) == ("PNG", (192, 192))


def test_sixel_draws_every_pixel_once() -> None:
    """Decoded by hand, the bands give the picture back."""
    text = _cli_preview.render(webp(), "sixel")
    assert text.startswith("\x1bPq")
    assert text.endswith("\x1b\\\n")
    body = text.removeprefix("\x1bPq").removesuffix("\x1b\\\n")
    size = re.match(r'"1;1;(\d+);(\d+)', body)
    assert size is not None
    width, height = int(size[1]), int(size[2])
    colours = {int(n): (int(r), int(g), int(b)) for n, r, g, b in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", body)}
    bands = re.sub(r'^"[\d;]*(#\d+;2;\d+;\d+;\d+)*', "", body).split("-")
    pixels: dict[tuple[int, int], tuple[int, int, int]] = {}
    for band, content in enumerate(bands):
        for line in content.split("$"):
            number, sixels = re.match(r"#(\d+)(.*)", line).groups()  # type: ignore[union-attr]  # fails the test if not
            x = 0
            for count, character in re.findall(r"(?:!(\d+))?([?-~])", sixels):
                for _ in range(int(count or 1)):
                    for bit in range(6):
                        if (ord(character) - 63) >> bit & 1:
                            assert (x, 6 * band + bit) not in pixels
                            pixels[x, 6 * band + bit] = colours[int(number)]
                    x += 1
    assert len(pixels) == width * height == 192 * 192
    assert pixels[0, 0] == (100, 0, 0)
    assert pixels[191, 191] == (0, 0, 100)


def test_what_is_no_picture_is_a_clear_error() -> None:
    """Not Pillow's own."""
    with pytest.raises(ValueError, match="cannot be decoded"):
        _cli_preview.render(b"nothing", "blocks")


@pytest.mark.parametrize(
    ("words", "count"),
    [([], None), (["--preview"], 4), (["--preview", "sixel"], 4), (["--preview", "--previews", "9"], 9)],
)
def test_the_arguments_ask_for_previews(words: list[str], count: int | None) -> None:
    """Four unless a number is given; none without --preview."""
    arguments = build_parser({}).parse_args(["generate", "a circle", *words])
    assert generation_options(arguments, "image/png").get("preview_count") == count


def test_another_protocol_is_wrong_usage() -> None:
    """The message lists those that there are."""
    with pytest.raises(UsageError, match="'ascii'"):
        build_parser({}).parse_args(["generate", "a circle", "--preview", "ascii"])
