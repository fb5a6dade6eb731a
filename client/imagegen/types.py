"""The values of the client: options, events, results and descriptions, all frozen.

Units: durations in seconds, times in seconds since the epoch, sizes in pixels or bytes as named.
"""

from __future__ import annotations

__all__ = [
    "Accepted",
    "Completed",
    "ComponentSize",
    "Defaults",
    "DeviceInfo",
    "Event",
    "EventBase",
    "Fallback",
    "FallbackKind",
    "FallbackReason",
    "FallbackTaken",
    "GeneratedImage",
    "GenerationKeywords",
    "GenerationOptions",
    "GenerationPlan",
    "GenerationState",
    "GenerationWarning",
    "ImageHeader",
    "ImageReceived",
    "Limits",
    "MemoryPlan",
    "MicroConditioning",
    "ModelInfo",
    "OutputOptions",
    "Point",
    "Preview",
    "Priority",
    "PromptTruncation",
    "QueueUpdate",
    "RefinerMode",
    "RefinerOptions",
    "Residency",
    "ServerInfo",
    "ServerState",
    "Size",
    "Stage",
    "StageCompleted",
    "StagePlan",
    "StageStarted",
    "StageTiming",
    "StepProgress",
    "WarningCode",
    "WarningIssued",
]

from imagegen._enums import (
    FallbackKind,
    FallbackReason,
    GenerationState,
    Priority,
    RefinerMode,
    Residency,
    ServerState,
    Stage,
    WarningCode,
)
from imagegen._events import (
    Accepted,
    Completed,
    Event,
    EventBase,
    FallbackTaken,
    ImageHeader,
    ImageReceived,
    Preview,
    QueueUpdate,
    StageCompleted,
    StageStarted,
    StepProgress,
    WarningIssued,
)
from imagegen._options import (
    GenerationKeywords,
    GenerationOptions,
    MicroConditioning,
    OutputOptions,
    Point,
    RefinerOptions,
    Size,
)
from imagegen._results import (
    Fallback,
    GeneratedImage,
    GenerationPlan,
    GenerationWarning,
    PromptTruncation,
    StagePlan,
    StageTiming,
)
from imagegen._server_types import ComponentSize, Defaults, DeviceInfo, Limits, MemoryPlan, ModelInfo, ServerInfo
