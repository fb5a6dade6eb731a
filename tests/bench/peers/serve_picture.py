"""The server on the fake model, whose images of 1024x1024 have the statistics of a photograph."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.encoding import SIDE, picture  # noqa: E402 - needs the path
from imagegen_server.__main__ import main  # noqa: E402 - as above
from imagegen_server.core import GenerationRequest, Pixels  # noqa: E402 - as above
from imagegen_server.models.fake import runner as fake  # noqa: E402 - as above

_PICTURE = picture()
_pixels = fake.pixels


def pixels(request: GenerationRequest, *arguments: Any) -> Pixels:
    """Returns the picture, or the fake model's own image of any other size."""
    return _PICTURE if (request.width, request.height) == (SIDE, SIDE) else _pixels(request, *arguments)


if __name__ == "__main__":
    fake.pixels = pixels  # type: ignore[assignment]
    sys.exit(main())
