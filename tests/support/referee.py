"""An observer of the engine that counts what must balance in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from imagegen_server.core import (
    Adaptation,
    EngineObserver,
    FallbackTaken,
    GenerationRequest,
    Outcome,
    Plan,
    QueueState,
    Refusal,
    RejectReason,
    Stage,
    TextReuse,
    Usage,
)


@dataclass
class Referee(EngineObserver):
    """Hears everything, and checks what can be checked at once."""

    accepted_ids: list[str] = field(default_factory=list)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    open_stages: Counter[tuple[str, Stage, int | None]] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    rejections: Counter[RejectReason] = field(default_factory=Counter)
    encoded: Counter[str] = field(default_factory=Counter)
    waits: dict[str, float] = field(default_factory=dict)
    first_steps: dict[str, float] = field(default_factory=dict)
    elapsed: dict[str, float] = field(default_factory=dict)
    usages: dict[str, Usage] = field(default_factory=dict)
    fallbacks: Counter[str] = field(default_factory=Counter)
    cancel_latencies: list[float] = field(default_factory=list)
    ends: Counter[tuple[str, Stage, Outcome]] = field(default_factory=Counter)
    """Stages that ended, and how."""
    batches: list[tuple[Stage, int, int]] = field(default_factory=list)
    """Rows and evaluations of the turns that ran."""
    caps: list[tuple[Stage, int]] = field(default_factory=list)
    adaptations: list[Adaptation] = field(default_factory=list)
    reuses: list[TextReuse] = field(default_factory=list)
    device_seconds: float = 0.0
    used_seconds: float = 0.0
    lost_seconds: float = 0.0
    """Of what was used: by generations that delivered nothing, or in stages that were given up."""
    wasted_seconds: float = 0.0
    state: QueueState | None = None

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        self.accepted_ids.append(request.request_id)

    def rejected(self, refusal: Refusal) -> None:
        self.rejections[refusal.reason] += 1

    def queue_changed(self, state: QueueState) -> None:
        self.state = state

    def first_turn(self, request: GenerationRequest, waited: float) -> None:
        self.waits[request.request_id] = waited

    def first_progress(self, request: GenerationRequest, elapsed: float) -> None:
        self.first_steps[request.request_id] = elapsed

    def batch_executed(self, stage: Stage, rows: int, evaluations: int, elapsed: float) -> None:
        assert rows >= evaluations > 0
        assert elapsed >= 0
        self.batches.append((stage, rows, evaluations))

    def device_used(self, stage: Stage, elapsed: float) -> None:
        self.device_seconds += elapsed

    def rows_capped(self, stage: Stage, rows: int) -> None:
        self.caps.append((stage, rows))

    def adapted(self, adaptation: Adaptation) -> None:
        self.adaptations.append(adaptation)

    def text_encoded(self, request: GenerationRequest, reuse: TextReuse) -> None:
        self.reuses.append(reuse)

    def steps_executed(self, request: GenerationRequest, stage: Stage, steps: int) -> None:
        self.steps[request.request_id] += steps

    def stage_started(self, request: GenerationRequest, stage: Stage, image_index: int | None) -> None:
        self.open_stages[request.request_id, stage, image_index] += 1

    def stage_ended(
        self, request: GenerationRequest, stage: Stage, image_index: int | None, outcome: Outcome, elapsed: float
    ) -> None:
        self.open_stages[request.request_id, stage, image_index] -= 1
        self.ends[request.request_id, stage, outcome] += 1

    def fallback(self, request: GenerationRequest, taken: FallbackTaken) -> None:
        self.fallbacks[request.request_id] += 1

    def image_encoded(self, request: GenerationRequest, mime_type: str, size_bytes: int) -> None:
        assert size_bytes > 0
        self.encoded[request.request_id] += 1

    def cancelled(self, request: GenerationRequest, stage: Stage, latency: float) -> None:
        self.cancel_latencies.append(latency)

    def wasted(self, reason: Outcome, device_seconds: float) -> None:
        assert device_seconds > 0
        self.wasted_seconds += device_seconds
        assert reason in (Outcome.CANCELLED, Outcome.DEADLINE, Outcome.ERROR)

    def used(self, request: GenerationRequest, outcome: Outcome, usage: Usage) -> None:
        assert 0 <= usage.wasted_device_seconds <= usage.device_seconds
        self.usages[request.request_id] = usage
        self.used_seconds += usage.device_seconds
        delivered = outcome in (Outcome.OK, Outcome.DEGRADED)
        self.lost_seconds += usage.wasted_device_seconds if delivered else usage.device_seconds

    def ended(self, request: GenerationRequest, outcome: Outcome, elapsed: float, error: Exception | None) -> None:
        self.outcomes.setdefault(request.request_id, []).append(outcome)
        self.elapsed[request.request_id] = elapsed
