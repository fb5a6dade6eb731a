"""Who runs next: admission, queue, batch choice, deadlines, cancellation and events. No tensors, no calls.

Engine          the way in, for callers, for the composition root and for the device thread
  Admission     a request becomes a generation in the queue, or is refused
  Waiting       who of the queue begins, and what those who wait are told
  Loop          turns, one after the other, and sleep
    Turns       a turn: who takes part (`policy`), what it took (`outstanding`) and what follows for costs and shares
    Advance     its jobs: the next step, the next stage, a fallback, a failure
      Encoding  pixels become files, and are kept
  Endings       stopped, finished or delivered; a caller's hold on that is its `Ticket`
Books           what all of these share, under one lock: `Ledger`, `CostModel`, `RowBudget`
Generation      one request on its way: a `Track` for each job, an `EventBuffer` for its caller, an `Account`
Runner          what is asked of the models
"""

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
