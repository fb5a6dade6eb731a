"""The nouns that every room of the server shares. Standard library only.

Units: durations and times are seconds (`time.monotonic()` for instants), sizes are pixels or bytes as named.
A request here is complete: `api` has validated it and filled every default.
"""

__all__ = [
    "LATENT_FACTOR",
    "STEP_STAGES",
    "Adaptation",
    "AuthFailure",
    "ComponentSize",
    "Defaults",
    "DeviceInfo",
    "EncodedImage",
    "EngineObserver",
    "FallbackKind",
    "FallbackReason",
    "FallbackTaken",
    "Feature",
    "GenerationKey",
    "GenerationRequest",
    "GenerationState",
    "Job",
    "KeepFailure",
    "LatentShape",
    "Limits",
    "LoadedModel",
    "MemoryPlan",
    "Metadata",
    "MicroConditioning",
    "ModelProfile",
    "Outcome",
    "OutputSettings",
    "Pixels",
    "Plan",
    "Precision",
    "Priority",
    "PromptTruncation",
    "QueueState",
    "RefinerMode",
    "RefinerSettings",
    "Refusal",
    "RejectReason",
    "Residency",
    "RpcMethod",
    "Size",
    "Stage",
    "StagePlan",
    "StepResult",
    "TextReuse",
    "Usage",
]

from imagegen_server.core.calls import Metadata, RpcMethod
from imagegen_server.core.devices import ComponentSize, DeviceInfo, LoadedModel, MemoryPlan
from imagegen_server.core.images import EncodedImage, Pixels, Size
from imagegen_server.core.observer import AuthFailure, EngineObserver, QueueState, Refusal
from imagegen_server.core.plans import FallbackTaken, LatentShape, Plan, StagePlan
from imagegen_server.core.profiles import LATENT_FACTOR, Defaults, Limits, ModelProfile
from imagegen_server.core.requests import (
    GenerationKey,
    GenerationRequest,
    MicroConditioning,
    OutputSettings,
    RefinerSettings,
)
from imagegen_server.core.steps import Adaptation, Job, PromptTruncation, StepResult, TextReuse, Usage
from imagegen_server.core.words import (
    STEP_STAGES,
    FallbackKind,
    FallbackReason,
    Feature,
    GenerationState,
    KeepFailure,
    Outcome,
    Precision,
    Priority,
    RefinerMode,
    RejectReason,
    Residency,
    Stage,
)
