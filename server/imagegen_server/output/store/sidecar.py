"""The parameters beside an image, as JSON."""

from __future__ import annotations

import datetime
import json
from typing import Any

from imagegen_server.core import EncodedImage, GenerationRequest


def sidecar(
    image: EncodedImage, request: GenerationRequest, image_index: int, *, refined: bool, created: float
) -> bytes:
    """Returns what is written beside an image: facts of the file, and what made it.

    Without `embed_parameters` the file's facts are all: a caller that wants no prompt in the file gets none beside it.

    Args:
        image: the file.
        request: what was asked for.
        image_index: from 0.
        refined: whether the refiner's result is shown.
        created: seconds since the epoch.
    """
    facts: dict[str, Any] = {
        "sha256": image.sha256,
        "mime_type": image.mime_type,
        "size_bytes": len(image.data),
        "width": request.width,
        "height": request.height,
        "created": datetime.datetime.fromtimestamp(created, datetime.UTC).isoformat(timespec="seconds"),
    }
    if request.output.embed_parameters:
        facts |= {
            "request_id": request.request_id,
            "image_index": image_index,
            "seed": request.seed + image_index,
            "refined": refined,
            "parameters": dict(request.parameters),
        }
    return json.dumps(facts, ensure_ascii=False, indent=2).encode(errors="replace") + b"\n"
