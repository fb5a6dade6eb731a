"""Python client of the ImageGen service.

    with imagegen.Client("localhost:50051") as client:
        image = client.generate_image("a red circle on a blue background", seed=7)
        image.save("circle.png")

`Client` and `AsyncClient` are the connections, `imagegen.types` the values, `imagegen.errors` the exceptions.
"""

from __future__ import annotations

__all__ = [
    "Accepted",
    "AsyncClient",
    "Client",
    "Completed",
    "Event",
    "FallbackKind",
    "FallbackTaken",
    "GeneratedImage",
    "GenerationInfo",
    "GenerationState",
    "ImageGenError",
    "ImageHeader",
    "ImageReceived",
    "MicroConditioning",
    "ModelInfo",
    "OnDisconnect",
    "OutputOptions",
    "Point",
    "Preview",
    "Priority",
    "QueueUpdate",
    "RefinerMode",
    "RefinerOptions",
    "RenderResult",
    "RenderedImage",
    "ServerInfo",
    "Size",
    "Stage",
    "StageCompleted",
    "StageStarted",
    "StepProgress",
    "WarningIssued",
    "errors",
    "types",
]

from imagegen import errors, types
from imagegen._aio import AsyncClient
from imagegen._client import Client
from imagegen.errors import ImageGenError
from imagegen.types import (
    Accepted,
    Completed,
    Event,
    FallbackKind,
    FallbackTaken,
    GeneratedImage,
    GenerationInfo,
    GenerationState,
    ImageHeader,
    ImageReceived,
    MicroConditioning,
    ModelInfo,
    OnDisconnect,
    OutputOptions,
    Point,
    Preview,
    Priority,
    QueueUpdate,
    RefinerMode,
    RefinerOptions,
    RenderedImage,
    RenderResult,
    ServerInfo,
    Size,
    Stage,
    StageCompleted,
    StageStarted,
    StepProgress,
    WarningIssued,
)
