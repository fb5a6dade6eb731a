"""What the files of the store are called: an image by its content, its parameters by its image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

EXTENSIONS: Final[Mapping[str, str]] = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
MEDIA_TYPES: Final[Mapping[str, str]] = {extension: media_type for media_type, extension in EXTENSIONS.items()}

_IMAGE: Final = re.compile(rf"[0-9a-f]{{64}}\.({'|'.join(MEDIA_TYPES)})")
_PARAMETERS: Final = re.compile(r"[0-9a-f]{64}\.json")


def image_name(sha256: str, mime_type: str) -> str:
    """Returns the name of an image file; KeyError for a media type that is not written."""
    return f"{sha256}.{EXTENSIONS[mime_type]}"


def is_image(name: str) -> bool:
    """Returns whether a name is exactly one that the store gives to an image."""
    return _IMAGE.fullmatch(name) is not None


def is_parameters(name: str) -> bool:
    """Returns whether a name is exactly one that the store gives to an image's parameters."""
    return _PARAMETERS.fullmatch(name) is not None


def parameters_name(image: str) -> str:
    """Returns the name of the parameters beside an image."""
    return f"{image.partition('.')[0]}.json"
