"""Protobuf messages to the client's values. Pure; unknown enum values become `UNKNOWN`."""

from __future__ import annotations

import enum
from typing import Protocol, TypedDict, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from imagegen import types
from imagegen.v1 import imagegen_pb2 as pb

_E = TypeVar("_E", bound=enum.StrEnum)


class _ProtoEnum(Protocol):
    """The part of a generated enum wrapper that is used here."""

    def items(self) -> list[tuple[str, int]]:
        """Returns names and numbers."""
        ...


def _numbers(wrapper: _ProtoEnum, prefix: str, kind: type[_E]) -> dict[int, _E]:
    """Pairs the proto's numbers with the client's values of the same name."""
    return {
        number: kind(name.removeprefix(prefix).lower())
        for name, number in wrapper.items()
        if name != f"{prefix}UNSPECIFIED"
    }


STAGES = _numbers(pb.Stage, "STAGE_", types.Stage)
REFINER_MODES = _numbers(pb.RefinerMode, "REFINER_MODE_", types.RefinerMode)
ON_DISCONNECT = _numbers(pb.OnDisconnect, "ON_DISCONNECT_", types.OnDisconnect)
PRIORITIES = _numbers(pb.Priority, "PRIORITY_", types.Priority)
FALLBACK_KINDS = _numbers(pb.FallbackKind, "FALLBACK_KIND_", types.FallbackKind)
FALLBACK_REASONS = _numbers(pb.FallbackReason, "FALLBACK_REASON_", types.FallbackReason)
WARNING_CODES = _numbers(pb.WarningCode, "WARNING_CODE_", types.WarningCode)
GENERATION_STATES = _numbers(pb.GenerationState, "GENERATION_STATE_", types.GenerationState)
SERVER_STATES = _numbers(pb.ServerState, "SERVER_STATE_", types.ServerState)
RESIDENCIES = _numbers(pb.Residency, "RESIDENCY_", types.Residency)


def seconds(duration: Duration) -> float:
    """Returns a duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def epoch(timestamp: Timestamp) -> float:
    """Returns an instant in seconds since the epoch."""
    return timestamp.seconds + timestamp.nanos / 1e9


def stage(number: int) -> types.Stage:
    """Returns a stage."""
    return STAGES.get(number, types.Stage.UNKNOWN)


def generation_state(number: int) -> types.GenerationState:
    """Returns the state of a generation."""
    return GENERATION_STATES.get(number, types.GenerationState.UNKNOWN)


def refiner_mode(number: int) -> types.RefinerMode | None:
    """Returns a refiner mode; None for the unspecified one, which means no refiner."""
    return REFINER_MODES.get(number, types.RefinerMode.UNKNOWN) if number else None


def size(message: pb.Size) -> types.Size:
    """Returns a width and a height."""
    return types.Size(width=message.width, height=message.height)


def plan(message: pb.GenerationPlan) -> types.GenerationPlan:
    """Returns what a generation will execute."""
    return types.GenerationPlan(
        model=message.model,
        seed=message.seed,
        size=size(message.size),
        num_images=message.num_images,
        scheduler=message.scheduler,
        stages=tuple(
            types.StagePlan(
                stage=stage(planned.stage),
                steps=planned.steps,
                evaluations=planned.evaluations,
                guidance_scale=planned.guidance_scale,
            )
            for planned in message.stages
        ),
        refiner_mode=refiner_mode(message.refiner_mode),
        precision=message.precision,
        allowed_fallbacks=tuple(
            FALLBACK_KINDS.get(kind, types.FallbackKind.UNKNOWN) for kind in message.allowed_fallbacks
        ),
        mime_type=message.mime_type,
    )


def fallback(message: pb.FallbackTaken) -> types.Fallback:
    """Returns a fallback that was taken."""
    return types.Fallback(
        image_index=message.image_index,
        from_stage=stage(message.from_stage),
        to_stage=stage(message.to_stage),
        reason=FALLBACK_REASONS.get(message.reason, types.FallbackReason.UNKNOWN),
        kind=FALLBACK_KINDS.get(message.kind, types.FallbackKind.UNKNOWN),
        message=message.message,
    )


def warning(message: pb.Warning) -> types.GenerationWarning:
    """Returns a warning."""
    cut = message.truncation
    truncation = types.PromptTruncation(
        encoder=cut.encoder,
        stage=stage(cut.stage),
        field=cut.field,
        removed_text=cut.removed_text,
        removed_tokens=cut.removed_tokens,
        max_tokens=cut.max_tokens,
    )
    return types.GenerationWarning(
        code=WARNING_CODES.get(message.code, types.WarningCode.UNKNOWN),
        message=message.message,
        truncation=truncation if message.HasField("truncation") else None,
        image_index=message.image_index if message.HasField("image_index") else None,
    )


def timing(message: pb.StageTiming) -> types.StageTiming:
    """Returns how long a stage took."""
    return types.StageTiming(stage=stage(message.stage), duration=seconds(message.duration), steps=message.steps)


class Outcome(TypedDict):
    """What `types.Completed` and `types.GenerationOutcome` have in common."""

    stage_timings: tuple[types.StageTiming, ...]
    total_duration: float
    peak_memory_bytes: int | None
    fallbacks: tuple[types.Fallback, ...]
    device_seconds: float
    wasted_device_seconds: float
    energy_joules: float | None
    images_per_joule: float | None


def outcome(message: pb.Completed) -> Outcome:
    """Returns how a generation that ended well went."""
    return {
        "stage_timings": tuple(timing(part) for part in message.stage_timings),
        "total_duration": seconds(message.total_duration),
        "peak_memory_bytes": message.peak_memory_bytes if message.HasField("peak_memory_bytes") else None,
        "fallbacks": tuple(fallback(taken) for taken in message.fallbacks),
        "device_seconds": message.device_seconds,
        "wasted_device_seconds": message.wasted_device_seconds,
        "energy_joules": message.energy_joules if message.HasField("energy_joules") else None,
        "images_per_joule": message.images_per_joule if message.HasField("images_per_joule") else None,
    }
