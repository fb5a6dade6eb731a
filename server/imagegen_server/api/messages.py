"""The engine's events as messages of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api.enums import FALLBACK_KINDS, FALLBACK_REASONS, REFINER_MODES, STAGES
from imagegen_server.core import GenerationRequest, KeepFailure, Plan
from imagegen_server.engine import ImageFacts, events

NOT_KEPT: Final = {
    KeepFailure.FULL: "the store is full",
    KeepFailure.DENIED: "the store may not be written to",
    KeepFailure.MISSING: "the store is gone",
    KeepFailure.TIMEOUT: "the store took too long",
    KeepFailure.BUSY: "the store has too much to write",
    KeepFailure.ERROR: "the store failed",
}
"""What callers are told."""


def duration(seconds: float) -> Duration:
    """Returns a duration to the nanosecond; negative estimates count as none."""
    result = Duration()
    result.FromNanoseconds(max(0, round(seconds * 1e9)))
    return result


def timestamp(seconds: float) -> Timestamp:
    """Returns an instant given in seconds since the epoch."""
    result = Timestamp()
    result.FromNanoseconds(round(seconds * 1e9))
    return result


def generation_plan(plan: Plan, request: GenerationRequest) -> pb.GenerationPlan:
    """Returns what a generation executes."""
    return pb.GenerationPlan(
        model=request.model,
        seed=request.seed,
        size=pb.Size(width=request.width, height=request.height),
        num_images=request.num_images,
        scheduler=request.scheduler,
        stages=[
            pb.StagePlan(
                stage=STAGES[planned.stage],
                steps=planned.steps,
                evaluations=planned.evaluations if planned.steps else 0,
                guidance_scale=planned.guidance_scale,
            )
            for planned in plan.stages
        ],
        refiner_mode=pb.REFINER_MODE_UNSPECIFIED if plan.refiner_mode is None else REFINER_MODES[plan.refiner_mode],
        precision=plan.precision,
        allowed_fallbacks=sorted(FALLBACK_KINDS[kind] for kind in request.allowed_fallbacks),
        mime_type=request.output.mime_type,
    )


def accepted(event: events.Accepted, request: GenerationRequest) -> pb.Accepted:
    """Returns the plan and the estimates."""
    return pb.Accepted(
        plan=generation_plan(event.plan, request),
        queue_position=event.queue_position,
        estimated_queue_wait=duration(event.estimated_wait),
        estimated_duration=duration(event.estimated_duration),
    )


def fallback(event: events.FallbackTaken) -> pb.FallbackTaken:
    """Returns a departure from the plan."""
    return pb.FallbackTaken(
        image_index=event.image_index,
        from_stage=STAGES[event.from_stage],
        to_stage=STAGES[event.to_stage],
        reason=FALLBACK_REASONS[event.reason],
        kind=FALLBACK_KINDS[event.kind],
        message=event.message,
    )


def warning(event: events.PromptTruncated) -> pb.Warning:
    """Returns the warning for a prompt that was cut."""
    cut = event.truncation
    return pb.Warning(
        code=pb.WARNING_CODE_PROMPT_TRUNCATED,
        message=f"{cut.prompt_field}: {cut.encoder} reads {cut.max_tokens} tokens; {cut.removed_tokens} were cut",
        truncation=pb.PromptTruncation(
            encoder=cut.encoder,
            stage=STAGES[cut.stage],
            field=cut.prompt_field,
            removed_text=cut.removed_text,
            removed_tokens=cut.removed_tokens,
            max_tokens=cut.max_tokens,
        ),
    )


def not_kept(event: events.ImageKept) -> pb.Warning:
    """Returns the warning for an image that could not be kept."""
    reason = NOT_KEPT[event.failure or KeepFailure.ERROR]
    return pb.Warning(
        code=pb.WARNING_CODE_IMAGE_NOT_KEPT,
        message=f"image {event.image_index} was not kept and has no URL: {reason}",
        image_index=event.image_index,
    )


def image_header(event: events.ImageReady) -> pb.ImageHeader:
    """Returns what precedes an image's chunks."""
    return pb.ImageHeader(
        image_index=event.image_index,
        mime_type=event.image.mime_type,
        size_bytes=len(event.image.data),
        sha256=event.image.sha256,
        seed=event.seed,
        size=pb.Size(width=event.width, height=event.height),
        refined=event.refined,
    )


def image_summary(image: ImageFacts) -> pb.ImageSummary:
    """Returns what `completed` says of an image."""
    return pb.ImageSummary(
        image_index=image.image_index,
        seed=image.seed,
        sha256=image.sha256,
        size_bytes=image.size_bytes,
        refined=image.refined,
        url=image.url,
    )


def completed(
    event: events.Finished,
    *,
    timings: Sequence[events.StageTiming],
    total: float,
    images: Sequence[pb.ImageSummary],
) -> pb.Completed:
    """Returns the terminal event. `timings` include the send stage; `total` is in seconds;
    `images` are in order."""
    usage = event.usage
    return pb.Completed(
        stage_timings=[
            pb.StageTiming(stage=STAGES[timing.stage], duration=duration(timing.duration), steps=timing.steps)
            for timing in timings
        ],
        total_duration=duration(total),
        peak_memory_bytes=usage.peak_memory_bytes,
        fallbacks=[fallback(taken) for taken in event.fallbacks],
        images=images,
        device_seconds=usage.device_seconds,
        wasted_device_seconds=usage.wasted_device_seconds,
        energy_joules=usage.energy_joules,
        images_per_joule=len(images) / usage.energy_joules if usage.energy_joules else None,
    )


def response(event: events.Event, request: GenerationRequest) -> pb.GenerateImageResponse:
    """Returns the message of an event, without its place in the stream; of `ImageKept`, the warning that it was not.

    `ImageReady` and `Finished` become several messages or an error and are not accepted here: TypeError.
    """
    message = partial(pb.GenerateImageResponse, request_id=request.request_id)
    match event:
        case events.Accepted():
            made = message(accepted=accepted(event, request))
        case events.QueueUpdate():
            made = message(queue_update=_queue_update(event))
        case events.StageStarted():
            made = message(stage_started=_stage_started(event))
        case events.StepProgress():
            made = message(step_progress=_step_progress(event))
        case events.StageCompleted():
            made = message(stage_completed=_stage_completed(event))
        case events.FallbackTaken():
            made = message(fallback=fallback(event))
        case events.PreviewReady():
            made = message(preview=_preview(event))
        case events.PromptTruncated():
            made = message(warning=warning(event))
        case events.ImageKept():
            made = message(warning=not_kept(event))
        case _:
            raise TypeError(f"not an event of one message: {type(event).__name__}")
    return made


def _queue_update(event: events.QueueUpdate) -> pb.QueueUpdate:
    return pb.QueueUpdate(position=event.position, estimated_wait=duration(event.estimated_wait))


def _stage_started(event: events.StageStarted) -> pb.StageStarted:
    return pb.StageStarted(stage=STAGES[event.stage], image_index=event.image_index, total_steps=event.total_steps)


def _stage_completed(event: events.StageCompleted) -> pb.StageCompleted:
    return pb.StageCompleted(
        stage=STAGES[event.stage],
        image_index=event.image_index,
        duration=duration(event.duration),
        steps=event.steps,
    )


def _preview(event: events.PreviewReady) -> pb.Preview:
    return pb.Preview(
        stage=STAGES[event.stage],
        image_index=event.image_index,
        completed_steps=event.completed_steps,
        mime_type=event.image.mime_type,
        data=event.image.data,
        size=pb.Size(width=event.width, height=event.height),
    )


def _step_progress(event: events.StepProgress) -> pb.StepProgress:
    return pb.StepProgress(
        stage=STAGES[event.stage],
        image_index=event.image_index,
        completed_steps=event.completed_steps,
        total_steps=event.total_steps,
        overall_fraction=event.overall_fraction,
        eta=None if event.eta is None else duration(event.eta),
    )
