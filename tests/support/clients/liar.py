"""A server that does not send what it announces, as the prompt says."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from imagegen.v1 import imagegen_pb2 as pb
from support import messages
from support.scripted_service import ScriptedService, error_info, refuse, retry_info


class Liar(ScriptedService):
    """Prompts: `wrong hash`, `missing chunk`, `no end`, and `never again` for a refusal that forbids to retry."""

    def __init__(self) -> None:
        super().__init__()
        self.script = _lie


def _lie(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
    if request.prompt == "never again":
        refuse(context, grpc.StatusCode.UNAVAILABLE, "gone", error_info("DRAINING"), retry_info(1), pushback=-1)
    chunks = 0
    for event in messages.generation(request):
        if event.HasField("image_header") and request.prompt == "wrong hash":
            event.image_header.sha256 = "0" * 64
        if event.HasField("image_chunk"):
            chunks += 1
            if request.prompt == "missing chunk" and chunks == 1:
                continue
        if request.prompt == "no end" and event.HasField("completed"):
            return
        yield event
