"""The answers of RenderImage and GetGeneration as the client's values. Pure."""

from __future__ import annotations

import hashlib

import grpc

from imagegen import types
from imagegen._convert import ON_DISCONNECT, epoch, generation_state, outcome, plan, stage, warning
from imagegen.errors import IntegrityError
from imagegen.v1 import imagegen_pb2 as pb

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def render_result(message: pb.RenderImageResponse, *, with_data: bool) -> types.RenderResult:
    """Returns the result of a generation. Raises IntegrityError for bytes that do not match their size or hash."""
    return types.RenderResult(
        request_id=message.request_id,
        plan=plan(message.plan),
        images=tuple(_image(image, message.request_id, with_data=with_data) for image in message.images),
        outcome=types.GenerationOutcome(**outcome(message.completed)),
        warnings=tuple(warning(told) for told in message.warnings),
    )


def generation_info(message: pb.GetGenerationResponse) -> types.GenerationInfo:
    """Returns what a server knows of a generation."""
    failure = message.failure
    return types.GenerationInfo(
        request_id=message.request_id,
        state=generation_state(message.state),
        plan=plan(message.plan),
        stage=stage(message.stage),
        overall_fraction=message.overall_fraction,
        images=tuple(_image(image, message.request_id, with_data=False) for image in message.images),
        outcome=types.GenerationOutcome(**outcome(message.completed)) if message.HasField("completed") else None,
        failure=types.GenerationFailure(
            code=_CODES.get(failure.code, grpc.StatusCode.UNKNOWN), reason=failure.reason, message=failure.message
        )
        if message.HasField("failure")
        else None,
        create_time=epoch(message.create_time),
        end_time=epoch(message.end_time) if message.HasField("end_time") else None,
        on_disconnect=ON_DISCONNECT.get(message.on_disconnect, types.OnDisconnect.UNKNOWN),
    )


def _image(message: pb.RenderedImage, request_id: str, *, with_data: bool) -> types.RenderedImage:
    summary, data = message.summary, message.data
    if with_data and (len(data), hashlib.sha256(data).hexdigest()) != (summary.size_bytes, summary.sha256):
        text = f"image {summary.image_index}: the received bytes are not the announced ones"
        raise IntegrityError(text, code=grpc.StatusCode.DATA_LOSS, request_id=request_id)
    return types.RenderedImage(
        image_index=summary.image_index,
        seed=summary.seed,
        sha256=summary.sha256,
        size_bytes=summary.size_bytes,
        refined=summary.refined,
        mime_type=message.mime_type,
        url=message.url,
        data=data if with_data else None,
    )
