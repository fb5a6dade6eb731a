"""Previews in a terminal: kitty's graphics protocol, sixel, or coloured half blocks, which every terminal can.

Needs Pillow, from the extra `cli`, to decode what the server sends.
"""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from PIL import Image

Protocol = Literal["kitty", "sixel", "blocks"]
"""How a picture is put on a terminal."""

CHOICES: Final = ("auto", *get_args(Protocol))
"""Values of --preview."""

_COLUMNS: Final = 32
"""Width of a preview of half blocks, in characters; each is two pixels high."""
_PIXELS: Final = 192
"""Longer side of a preview that is drawn in pixels."""
_KITTY_CHUNK: Final = 4096
"""Most base64 characters of one command (kitty's graphics protocol, "Remote client")."""
_SIXEL_COLOURS: Final = 64
_SIXEL_BAND: Final = 6
"""Rows that one line of sixels covers (DEC, VT330/VT340 Programmer Reference Manual, chapter 14)."""


def available() -> bool:
    """Returns whether previews can be decoded here."""
    return importlib.util.find_spec("PIL") is not None


def detect(environment: Mapping[str, str]) -> Protocol:
    """Returns the best protocol that the terminal says it knows, by the variables that terminals set."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in environment or "kitty" in term or program in {"ghostty", "WezTerm"}:
        return "kitty"
    if "sixel" in term or term.startswith(("foot", "mlterm", "contour")) or program in {"mintty", "contour"}:
        return "sixel"
    return "blocks"


def render(data: bytes, protocol: Protocol) -> str:
    """Returns what, written to a terminal, shows the picture; it ends with a line break.

    Raises ValueError for data that is no picture.
    """
    from PIL import Image  # noqa: PLC0415 - the extra `cli`

    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the preview cannot be decoded: {error}") from error
    return {"kitty": _kitty, "sixel": _sixel, "blocks": _blocks}[protocol](image)


def _blocks(image: Image.Image) -> str:
    """Returns upper half blocks: the foreground colours the upper pixel, the background the lower one."""
    from PIL import Image as Pillow  # noqa: PLC0415 - as above

    height = max(2, 2 * round(_COLUMNS * image.height / image.width / 2))
    small = image.resize((_COLUMNS, height), Pillow.Resampling.BOX)
    pixels = small.tobytes()
    lines = []
    for y in range(0, height, 2):
        cells = []
        for x in range(_COLUMNS):
            upper, lower = (pixels[3 * (row * _COLUMNS + x) :][:3] for row in (y, y + 1))
            cells.append(f"\x1b[38;2;{upper[0]};{upper[1]};{upper[2]}m\x1b[48;2;{lower[0]};{lower[1]};{lower[2]}m▀")
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)


def _kitty(image: Image.Image) -> str:
    """Returns the commands that transmit a PNG and show it (a=T, f=100)."""
    buffer = io.BytesIO()
    _enlarged(image).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    parts = [text[start : start + _KITTY_CHUNK] for start in range(0, len(text), _KITTY_CHUNK)]
    commands = []
    for index, part in enumerate(parts):
        keys = "a=T,f=100," if index == 0 else ""
        commands.append(f"\x1b_G{keys}m={int(index < len(parts) - 1)};{part}\x1b\\")
    return "".join(commands) + "\n"


def _sixel(image: Image.Image) -> str:
    """Returns a sixel picture with a palette of its own, run-length coded."""
    reduced = _enlarged(image).quantize(_SIXEL_COLOURS)
    palette = reduced.getpalette() or []
    width, height = reduced.size
    pixels = reduced.tobytes()
    used = sorted(set(pixels))
    colours = "".join(
        f"#{index};2;" + ";".join(str(round(channel * 100 / 255)) for channel in palette[3 * index : 3 * index + 3])
        for index in used
    )
    bands = []
    for top in range(0, height, _SIXEL_BAND):
        rows = [pixels[y * width : (y + 1) * width] for y in range(top, min(top + _SIXEL_BAND, height))]
        lines = [f"#{index}" + "".join(_runs(_sixels(rows, index))) for index in sorted(set(b"".join(rows)))]
        bands.append("$".join(lines))
    return f'\x1bPq"1;1;{width};{height}{colours}' + "-".join(bands) + "\x1b\\\n"


def _sixels(rows: list[bytes], index: int) -> Iterator[str]:
    for column in zip(*rows, strict=True):
        yield chr(63 + sum(1 << bit for bit, value in enumerate(column) if value == index))


def _runs(characters: Iterator[str]) -> Iterator[str]:
    last, length = "", 0
    for character in (*characters, ""):
        if character == last:
            length += 1
            continue
        if length:
            yield f"!{length}{last}" if length > 3 else last * length
        last, length = character, 1


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, _PIXELS // max(image.size))
    return image.resize((image.width * factor, image.height * factor))
