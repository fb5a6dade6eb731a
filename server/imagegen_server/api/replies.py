"""What is answered at once: the reply of RenderImage, folded from a generation's messages, and GetGeneration's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import ending, enums, messages, status
from imagegen_server.api.stream import Announce, Patient
from imagegen_server.core import GenerationState
from imagegen_server.engine import Report

MAX_REPLY: Final = 2**31 - 2**20
"""Bytes of images in one reply: protobuf's limit for a message, less room for everything else."""


class Reply:
    """Folds the messages of one generation into RenderImage's answer. It is written to as a stream is."""

    def __init__(self, *, include_data: bool, max_bytes: int = MAX_REPLY) -> None:
        self._include_data = include_data
        self._max_bytes = max_bytes
        self._reply = pb.RenderImageResponse()
        self._headers: dict[int, pb.ImageHeader] = {}
        self._files: dict[int, list[bytes]] = {}

    async def write(self, message: pb.GenerateImageResponse) -> None:
        """Takes the next message. Raises `errors.ReplyTooLarge` once the images cannot be one message."""
        self._reply.request_id = message.request_id
        match message.WhichOneof("event"):
            case "accepted":
                self._reply.plan.CopyFrom(message.accepted.plan)
            case "warning":
                warning: Any = message.warning  # the stubs take the contract's Warning for Python's
                self._reply.warnings.append(warning)
            case "image_header":
                self._headers[message.image_header.image_index] = message.image_header
                self._check_size()
            case "image_chunk" if self._include_data:
                self._files.setdefault(message.image_chunk.image_index, []).append(message.image_chunk.data)
            case "completed":
                self._complete(message.completed)

    @property
    def size(self) -> int:
        """Bytes of the images in the answer."""
        return sum(header.size_bytes for header in self._headers.values()) if self._include_data else 0

    def message(self) -> pb.RenderImageResponse:
        """Returns the answer, once the generation has completed or the plan was all that was asked for."""
        return self._reply

    def _check_size(self) -> None:
        if self.size > self._max_bytes:
            text = f"the images have {self.size} bytes, more than the {self._max_bytes} of one answer"
            raise errors.ReplyTooLarge(f"{text}; leave include_image_data out, or use GenerateImage")

    def _complete(self, completed: pb.Completed) -> None:
        reply, plan = self._reply, self._reply.plan
        reply.completed.CopyFrom(completed)
        for summary in completed.images:
            index = summary.image_index
            image = reply.images.add()  # filled in place: one that is appended is copied, bytes and all
            image.CopyFrom(rendered(summary, self._headers[index].mime_type))
            image.data = b"".join(self._files.pop(index, ()))
        reply.seed, reply.model, reply.mime_type = plan.seed, plan.model, plan.mime_type
        reply.size.CopyFrom(plan.size)
        reply.generation_seconds = completed.total_duration.ToNanoseconds() / 1e9
        reply.url = reply.images[0].url if reply.images else ""
        reply.refined = bool(completed.images) and all(summary.refined for summary in completed.images)
        reply.fallbacks.extend(completed.fallbacks)


class Answer:
    """RenderImage's answer, on its way to one caller. It is written to as a stream is, and sent once."""

    def __init__(self, reply: Reply, writer: Patient, announce: Announce) -> None:
        """Prepares to send `reply` to `writer`, after `announce`."""
        self._reply = reply
        self._writer = writer
        self._announce = announce
        self._sent = False
        self.held: Callable[[], AbstractContextManager[None]] = nullcontext
        """Surrounds the sending."""

    async def write(self, message: pb.GenerateImageResponse) -> None:
        """Takes the next message. The answer is sent with `completed`; what comes later is nothing to it."""
        if self._sent:
            return
        await self._reply.write(message)
        if message.HasField("completed"):
            await self.send()

    async def send(self) -> None:
        """Sends the answer, unless it has been; returns once the transport has taken it."""
        if self._sent:
            return
        self._sent = True
        with self.held():
            await self._announce()
            await self._writer.write(self._reply.message(), self._reply.size)


def rendered(summary: pb.ImageSummary, mime_type: str) -> pb.RenderedImage:
    """Returns an image without its bytes."""
    return pb.RenderedImage(summary=summary, url=summary.url, mime_type=mime_type)


def generation(report: Report) -> pb.GetGenerationResponse:
    """Returns what GetGeneration says of a generation."""
    request, finished = report.request, report.finished
    summaries = [messages.image_summary(image) for image in report.images]
    answer = pb.GetGenerationResponse(
        request_id=request.request_id,
        state=enums.GENERATION_STATES[report.state],
        plan=messages.generation_plan(report.plan, request),
        images=[rendered(summary, image.mime_type) for summary, image in zip(summaries, report.images, strict=True)],
        stage=enums.STAGES[report.stage],
        overall_fraction=report.fraction,
        create_time=messages.timestamp(report.created),
        on_disconnect=pb.ON_DISCONNECT_CONTINUE if request.outlives_call else pb.ON_DISCONNECT_STOP,
    )
    if report.ended is not None:
        answer.end_time.CopyFrom(messages.timestamp(report.ended))
    if report.state is GenerationState.COMPLETED:
        timings, total = finished.stage_timings, report.elapsed
        answer.completed.CopyFrom(messages.completed(finished, timings=timings, total=total, images=summaries))
    if finished.error is not None:
        answer.failure.CopyFrom(_failure(finished.error))
    return answer


def _failure(error: Exception) -> pb.GenerationFailure:
    failure = status.failure_of(error)
    code: int = failure.code.value[0]
    return pb.GenerationFailure(code=code, reason=failure.reason, message=ending.message_of(failure))
