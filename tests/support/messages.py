"""Messages of a well-behaved server, for the tests that change one thing about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from imagegen.v1 import imagegen_pb2 as pb

CHUNK = 256 * 1024
"""Bytes of a chunk, the server's default."""

STAGES = ((pb.STAGE_TEXT_ENCODE, 0), (pb.STAGE_BASE, 20), (pb.STAGE_REFINER, 6), (pb.STAGE_VAE_DECODE, 0))
"""The planned stages and their steps."""


def generation_plan(request: pb.GenerateImageRequest) -> pb.GenerationPlan:
    """Returns a plan for the request."""
    return pb.GenerationPlan(
        model="shapes",
        seed=request.seed if request.HasField("seed") else 4242,
        size=pb.Size(width=16, height=8),
        num_images=request.num_images if request.HasField("num_images") else 1,
        scheduler="EulerDiscreteScheduler",
        stages=[pb.StagePlan(stage=stage, steps=steps, evaluations=steps or 1) for stage, steps in STAGES],
        refiner_mode=pb.REFINER_MODE_IMAGE_TO_IMAGE,
        precision="fp32",
        allowed_fallbacks=[pb.FALLBACK_KIND_REFINER_TO_BASE],
        mime_type=request.output.mime_type or "image/png",
    )


def accepted(request: pb.GenerateImageRequest) -> pb.GenerateImageResponse:
    """Returns the first message."""
    response = pb.GenerateImageResponse(request_id=request.request_id, sequence=1)
    response.event_time.seconds = 1_700_000_000
    response.accepted.plan.CopyFrom(generation_plan(request))
    response.accepted.estimated_duration.FromMilliseconds(2500)
    return response


def progress(request: pb.GenerateImageRequest, index: int = 0) -> Iterator[pb.GenerateImageResponse]:
    """Yields the start, one report and the end of every stage of one image."""
    sequence = 2
    for stage, steps in STAGES:
        shared = stage == pb.STAGE_TEXT_ENCODE
        if shared and index:
            continue
        place: dict[str, Any] = {} if shared else {"image_index": index}
        for part in range(3):
            response = pb.GenerateImageResponse(request_id=request.request_id, sequence=sequence)
            response.event_time.FromMilliseconds(1_700_000_000_000 + sequence * 100)
            sequence += 1
            if part == 0:
                response.stage_started.CopyFrom(pb.StageStarted(stage=stage, total_steps=steps, **place))
            elif part == 1 and steps:
                done = pb.StepProgress(stage=stage, image_index=index, completed_steps=steps // 2, total_steps=steps)
                response.step_progress.CopyFrom(done)
            elif part == 2:
                response.stage_completed.CopyFrom(pb.StageCompleted(stage=stage, steps=steps, **place))
                response.stage_completed.duration.FromMilliseconds(150)
            if response.WhichOneof("event"):
                yield response


def picture(size: int = 1000, index: int = 0) -> bytes:
    """Returns bytes that stand for an image file, different for each index."""
    return hashlib.sha256(str(index).encode()).digest() * (size // 32 + 1)


def header(request: pb.GenerateImageRequest, data: bytes, index: int = 0) -> pb.GenerateImageResponse:
    """Returns the header of an image."""
    plan = generation_plan(request)
    announced = pb.ImageHeader(
        image_index=index,
        mime_type=plan.mime_type,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        seed=plan.seed + index,
        size=plan.size,
        refined=True,
    )
    return pb.GenerateImageResponse(request_id=request.request_id, sequence=50, image_header=announced)


def chunks(
    request: pb.GenerateImageRequest, data: bytes, index: int = 0, size: int = CHUNK
) -> Iterator[pb.GenerateImageResponse]:
    """Yields the chunks of an image."""
    for offset in range(0, len(data), size):
        chunk = pb.ImageChunk(image_index=index, offset=offset, data=data[offset : offset + size])
        yield pb.GenerateImageResponse(request_id=request.request_id, sequence=51, image_chunk=chunk)


def fallback(request: pb.GenerateImageRequest, index: int = 0) -> pb.GenerateImageResponse:
    """Returns the news that the refiner was given up."""
    taken = pb.FallbackTaken(
        image_index=index,
        from_stage=pb.STAGE_REFINER,
        to_stage=pb.STAGE_BASE,
        reason=pb.FALLBACK_REASON_OOM,
        kind=pb.FALLBACK_KIND_REFINER_TO_BASE,
        message="the refiner ran out of memory",
    )
    return pb.GenerateImageResponse(request_id=request.request_id, sequence=40, fallback=taken)


def truncated(request: pb.GenerateImageRequest) -> pb.GenerateImageResponse:
    """Returns the warning that the prompt was cut."""
    warning = pb.Warning(
        code=pb.WARNING_CODE_PROMPT_TRUNCATED,
        message="12 tokens of prompt were cut",
        truncation=pb.PromptTruncation(
            encoder="text_encoder",
            stage=pb.STAGE_BASE,
            field="prompt",
            removed_text="and a dog",
            removed_tokens=12,
            max_tokens=77,
        ),
    )
    return pb.GenerateImageResponse(request_id=request.request_id, sequence=39, warning=warning)


def completed(
    request: pb.GenerateImageRequest,
    pictures: Sequence[bytes],
    fallbacks: Sequence[pb.GenerateImageResponse] = (),
) -> pb.GenerateImageResponse:
    """Returns the last message."""
    response = pb.GenerateImageResponse(request_id=request.request_id, sequence=99)
    seed = generation_plan(request).seed
    for stage, steps in STAGES:
        timing = response.completed.stage_timings.add(stage=stage, steps=steps * len(pictures))
        timing.duration.FromMilliseconds(150)
    response.completed.total_duration.FromMilliseconds(1234)
    response.completed.fallbacks.extend(taken.fallback for taken in fallbacks)
    for index, data in enumerate(pictures):
        response.completed.images.add(
            image_index=index, seed=seed + index, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)
        )
    return response


def unknown_event(request: pb.GenerateImageRequest) -> pb.GenerateImageResponse:
    """Returns a message whose event has a field number that this contract does not know (99, four bytes)."""
    response = pb.GenerateImageResponse(request_id=request.request_id, sequence=45)
    response.MergeFromString(b"\x9a\x06\x04next")  # tag 99 << 3 | 2, length 4
    return response


def generation(request: pb.GenerateImageRequest, size: int = 1000) -> Iterator[pb.GenerateImageResponse]:
    """Yields everything that a server sends for a request that goes well."""
    yield accepted(request)
    if request.validate_only:
        return
    pictures = [picture(size, index) for index in range(generation_plan(request).num_images)]
    for index, data in enumerate(pictures):
        yield from progress(request, index)
        yield header(request, data, index)
        yield from chunks(request, data, index)
    yield completed(request, pictures)
