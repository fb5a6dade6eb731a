"""The events that need no memory of earlier ones: protobuf messages to the client's values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypedDict

from imagegen import types
from imagegen._convert import epoch, fallback, plan, seconds, size, stage, warning
from imagegen.v1 import imagegen_pb2 as pb


class Common(TypedDict):
    """The fields of `EventBase`."""

    request_id: str
    sequence: int
    event_time: float


def common(response: pb.GenerateImageResponse, request_id: str) -> Common:
    """Returns what every event carries."""
    return {"request_id": request_id, "sequence": response.sequence, "event_time": epoch(response.event_time)}


def _accepted(message: pb.Accepted, base: Common) -> types.Accepted:
    return types.Accepted(
        plan=plan(message.plan),
        queue_position=message.queue_position,
        estimated_queue_wait=seconds(message.estimated_queue_wait),
        estimated_duration=seconds(message.estimated_duration),
        **base,
    )


def _queue_update(message: pb.QueueUpdate, base: Common) -> types.QueueUpdate:
    return types.QueueUpdate(position=message.position, estimated_wait=seconds(message.estimated_wait), **base)


def _stage_started(message: pb.StageStarted, base: Common) -> types.StageStarted:
    return types.StageStarted(
        stage=stage(message.stage),
        image_index=message.image_index if message.HasField("image_index") else None,
        total_steps=message.total_steps,
        **base,
    )


def _step_progress(message: pb.StepProgress, base: Common) -> types.StepProgress:
    return types.StepProgress(
        stage=stage(message.stage),
        image_index=message.image_index,
        completed_steps=message.completed_steps,
        total_steps=message.total_steps,
        overall_fraction=message.overall_fraction,
        eta=seconds(message.eta) if message.HasField("eta") else None,
        **base,
    )


def _stage_completed(message: pb.StageCompleted, base: Common) -> types.StageCompleted:
    return types.StageCompleted(
        stage=stage(message.stage),
        image_index=message.image_index if message.HasField("image_index") else None,
        duration=seconds(message.duration),
        steps=message.steps,
        **base,
    )


def _preview(message: pb.Preview, base: Common) -> types.Preview:
    return types.Preview(
        stage=stage(message.stage),
        image_index=message.image_index,
        completed_steps=message.completed_steps,
        mime_type=message.mime_type,
        data=message.data,
        size=size(message.size),
        **base,
    )


def _image_header(message: pb.ImageHeader, base: Common) -> types.ImageHeader:
    return types.ImageHeader(
        image_index=message.image_index,
        mime_type=message.mime_type,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        seed=message.seed,
        size=size(message.size),
        refined=message.refined,
        **base,
    )


def _fallback(message: pb.FallbackTaken, base: Common) -> types.FallbackTaken:
    return types.FallbackTaken(fallback=fallback(message), **base)


def _warning(message: pb.Warning, base: Common) -> types.WarningIssued:
    return types.WarningIssued(warning=warning(message), **base)


_EVENTS: Final[Mapping[str, Callable[[Any, Common], types.Event]]] = {
    "accepted": _accepted,
    "queue_update": _queue_update,
    "stage_started": _stage_started,
    "step_progress": _step_progress,
    "stage_completed": _stage_completed,
    "preview": _preview,
    "image_header": _image_header,
    "fallback": _fallback,
    "warning": _warning,
}
"""Names in the oneof `event`; `image_chunk` and `completed` need what came before and are folded by the stream."""


def event(kind: str, response: pb.GenerateImageResponse, request_id: str) -> types.Event:
    """Returns the event of a message whose oneof is set to `kind`, one of the table above."""
    return _EVENTS[kind](getattr(response, kind), common(response, request_id))
