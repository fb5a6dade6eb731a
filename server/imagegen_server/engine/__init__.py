"""Who runs next: admission, queue, batch choice, deadlines, cancellation and events. No tensors, no calls."""

from imagegen_server.engine.encoding import Encode, EncodePreview, Keep
from imagegen_server.engine.engine import Engine
from imagegen_server.engine.events import (
    Accepted,
    Event,
    FallbackTaken,
    Finished,
    ImageKept,
    ImageReady,
    Numbered,
    PromptTruncated,
    QueueUpdate,
    StageCompleted,
    StageStarted,
    StageTiming,
    StepProgress,
)
from imagegen_server.engine.report import ImageFacts, Report, facts
from imagegen_server.engine.runner import Runner
from imagegen_server.engine.settings import SWAP_SECONDS, EngineSettings
from imagegen_server.engine.ticket import Ticket

__all__ = [
    "SWAP_SECONDS",
    "Accepted",
    "Encode",
    "EncodePreview",
    "Engine",
    "EngineSettings",
    "Event",
    "FallbackTaken",
    "Finished",
    "ImageFacts",
    "ImageKept",
    "ImageReady",
    "Keep",
    "Numbered",
    "PromptTruncated",
    "QueueUpdate",
    "Report",
    "Runner",
    "StageCompleted",
    "StageStarted",
    "StageTiming",
    "StepProgress",
    "Ticket",
    "facts",
]
