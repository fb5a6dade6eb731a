"""The text form of generation parameters that common image viewers and model sites read.

Three parts: the prompt; `Negative prompt: …`, if there is one; one line of `Key: value` pairs separated by commas,
`Steps` first. A value that contains a comma, a colon, a quote or a line break is written as a JSON string. The form
is the one that the AUTOMATIC1111 web UI writes (`modules/infotext_utils.py`); keys that it does not know are kept by
readers as extra entries.
"""

from __future__ import annotations

import json

from imagegen_server.core import GenerationRequest, RefinerMode, RefinerSettings

_QUOTED = frozenset(',:"\n\r')


def parameters_text(request: GenerationRequest, image_index: int, *, refined: bool = True) -> str:
    """Returns the parameters of one image as text without NUL; the same arguments give the same text.

    Args:
        request: what was generated.
        image_index: from 0; the seed written is the request's plus this.
        refined: false if the refiner was given up, so that the file does not claim it. Without effect if the
            request has no refiner.
    """
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{key}: {_value(value)}" for key, value in _entries(request, image_index, refined)))
    return "\n".join(lines).replace("\x00", "")


def _entries(request: GenerationRequest, image_index: int, refined: bool) -> list[tuple[str, object]]:
    """Returns the keys and values of the last line, in order."""
    entries: list[tuple[str, object]] = [
        ("Steps", request.num_inference_steps),
        ("Sampler", request.scheduler),
        ("CFG scale", request.guidance_scale),
        ("Seed", request.seed + image_index),
        ("Size", f"{request.width}x{request.height}"),
        ("Model", request.model),
    ]
    if request.prompt_2:
        entries.append(("Prompt 2", request.prompt_2))
    if request.negative_prompt_2:
        entries.append(("Negative prompt 2", request.negative_prompt_2))
    if request.refiner is not None and refined:
        entries.extend(_refiner_entries(request.refiner))
    entries.append(("Version", "ImageGen"))
    return entries


def _refiner_entries(refiner: RefinerSettings) -> list[tuple[str, object]]:
    """Returns the entries of the refiner stage, for the fields that its mode uses."""
    entries: list[tuple[str, object]] = [("Refiner mode", refiner.mode.value)]
    if refiner.mode is RefinerMode.ENSEMBLE:
        entries.append(("Refiner switch at", refiner.switch_at))
    else:
        entries.append(("Refiner steps", refiner.num_inference_steps))
        entries.append(("Denoising strength", refiner.strength))
    entries.append(("Refiner CFG scale", refiner.guidance_scale))
    entries.append(("Aesthetic score", refiner.aesthetic_score))
    entries.append(("Negative aesthetic score", refiner.negative_aesthetic_score))
    if refiner.prompt:
        entries.append(("Refiner prompt", refiner.prompt))
    return entries


def _value(value: object) -> str:
    """Returns a value as text, quoted as JSON where it would break the line."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if _QUOTED.intersection(text) else text
