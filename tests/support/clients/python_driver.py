"""Runs the cases that arrive as JSON lines with the packaged Python client, and answers with a JSON line each."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, cast

import grpc

import imagegen
from imagegen import errors, types

Json = dict[str, Any]

_NAMES = {"image_received": "image_chunk", "fallback_taken": "fallback", "warning_issued": "warning"}
"""Events of the Python client that are named otherwise than the contract's."""


def run(case: Json) -> Json:
    """Returns what came of one case."""
    credentials = grpc.ssl_channel_credentials(Path(case["ca"]).read_bytes()) if case["ca"] else None
    metadata = tuple(case["metadata"].items())
    attempts = case["attempts"]
    with imagegen.Client(
        case["address"], credentials=credentials, metadata=metadata, max_attempts=attempts, timeout=case["deadline"]
    ) as client:
        if case["call"] == "GenerateImage":
            return _generate(client, case)
        try:
            return {"code": "OK", "response": _unary(client, case)}
        except errors.ImageGenError as error:
            return _failure(error)


def _generate(client: imagegen.Client, case: Json) -> Json:
    said: Json = {"code": "OK", "events": [], "images": [], "plan": {}, "completed": {}}
    request = dict(case["request"])
    prompt = request.pop("prompt", "")
    try:
        if request.pop("validate_only", False):
            _take(said, client.plan(prompt, **_keywords(request)))
            return said
        for event in client.generate(prompt, **_keywords(request)):
            name = _take(said, event)
            if name == case.get("stop", {}).get("after"):
                if case["stop"]["by"] == "call":
                    return said | {"code": "CANCELLED"}
                client.cancel(event.request_id)
    except errors.ImageGenError as error:
        said |= _failure(error)
    said["images"].sort(key=lambda image: image["index"])
    return said


def _take(said: Json, event: types.Event) -> str:
    """Notes an event that is the first of its kind, and returns its name; "" for a later one."""
    said["request_id"] = event.request_id
    match event:
        case types.Accepted():
            said["plan"] = {"seed": str(event.plan.seed)}
        case types.ImageReceived():
            image = event.image
            header: Json = {"sha256": image.sha256, "sizeBytes": str(len(image.data)), "mimeType": image.mime_type}
            header |= {"refined": True} if image.refined else {}
            said["images"].append({"index": image.image_index, "header": header, "bytes": len(image.data)})
        case types.Completed():
            fallbacks = [{"reason": f"FALLBACK_REASON_{taken.reason.name}"} for taken in event.fallbacks]
            said["completed"] = {"fallbacks": fallbacks} if fallbacks else {}
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    name = _NAMES.get(name, name)
    if name in said["events"]:
        return ""
    said["events"].append(name)
    return name


def _keywords(request: Json) -> types.GenerationKeywords:
    """Returns a request of the contract, in its JSON form, as the client's keyword arguments."""
    found = dict(request)
    if "seed" in found:
        found["seed"] = int(found["seed"])
    if "refiner" in found:
        refiner = dict(found["refiner"])
        if "mode" in refiner:
            refiner["mode"] = types.RefinerMode[refiner["mode"].removeprefix("REFINER_MODE_")]
        found["refiner"] = types.RefinerOptions(**refiner)
    if "output" in found:
        found["output"] = types.OutputOptions(**found["output"])
    if "allowed_fallbacks" in found:
        kinds = found["allowed_fallbacks"].get("kinds", [])
        found["allowed_fallbacks"] = [types.FallbackKind[kind.removeprefix("FALLBACK_KIND_")] for kind in kinds]
    if "progress" in found:
        progress = found.pop("progress")
        found["preview_count"] = progress.get("preview_count", 0)
        if "min_interval" in progress:
            found["min_progress_interval"] = float(progress["min_interval"].removesuffix("s"))
    return cast(types.GenerationKeywords, found)  # the table's keys are the contract's


def _unary(client: imagegen.Client, case: Json) -> Json:
    match case["call"]:
        case "CancelGeneration":
            state = client.cancel(case["request"].get("request_id", ""))
            return {"state": f"GENERATION_STATE_{state.name}"}
        case "ListModels":
            return {"models": [{"name": model.name} for model in client.models()]}
        case "GetServerInfo":
            return {"model": client.server_info().model}
    raise ValueError(f"the Python client has no call {case['call']}")


def _failure(error: errors.ImageGenError) -> Json:
    if isinstance(error, errors.ResponseError):
        return {"code": "BROKEN", "message": str(error)}
    details = error.details
    said: Json = {"code": error.code.name, "message": str(error), "request_id": error.request_id}
    if isinstance(error, errors.PreconditionError):
        said["preconditions"] = [{"subject": violation.field} for violation in details.violations]
    else:
        said["violations"] = [{"field": v.field, "description": v.description} for v in details.violations]
    if details.reason:
        said |= {"reason": details.reason, "domain": details.domain, "metadata": dict(details.metadata)}
    if details.resource_type:
        said["resource"] = {"type": details.resource_type, "name": details.resource_name}
    if details.retry_after is not None:
        said["retry_after_ms"] = round(details.retry_after * 1000)
    return said


def main() -> None:
    """Answers until standard input ends."""
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)  # noqa: T201 - its output is for the test


if __name__ == "__main__":
    main()
