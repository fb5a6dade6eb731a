"""Listening to the engine: the events, a listener that does nothing, and one that passes them to several.

`EngineEvents` has the methods of the engine's Observer protocol, by shape: this room does not know the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from imagegen_server.core import (
    Adaptation,
    FallbackKind,
    FallbackReason,
    GenerationRequest,
    Outcome,
    Plan,
    RejectReason,
    Stage,
    TextReuse,
    Usage,
)
from imagegen_server.telemetry.fan import Fan, OnError


class QueueState(Protocol):
    """How full the engine is; counts of generations."""

    @property
    def queued(self) -> int:
        """Admitted, waiting for their first turn."""
        ...

    @property
    def running(self) -> int:
        """On the device, being encoded or being sent."""
        ...

    @property
    def capacity(self) -> int:
        """Most that may be queued."""
        ...


class EngineEvents:
    """Hears the engine's events and does nothing; listeners override what they need. Durations in seconds.

    Methods return at once and may be called from any thread.
    """

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        """A generation was admitted."""

    def rejected(self, request_id: str, model: str, reason: RejectReason) -> None:
        """A request was refused. `model` is what the caller wrote, which need not exist."""

    def queue_changed(self, state: QueueState) -> None:
        """The number of queued or running generations changed."""

    def first_turn(self, request: GenerationRequest, waited: float) -> None:
        """A generation left the queue."""

    def first_progress(self, request: GenerationRequest, elapsed: float) -> None:
        """The first denoising step was executed, `elapsed` after admission."""

    def batch_executed(self, stage: Stage, rows: int, evaluations: int, elapsed: float) -> None:
        """One turn of the device ended."""

    def device_used(self, stage: Stage, elapsed: float) -> None:
        """The device worked on a turn, well or not."""

    def rows_capped(self, stage: Stage, rows: int) -> None:
        """Batches of a stage have at most `rows` rows from now on."""

    def adapted(self, adaptation: Adaptation) -> None:
        """The runner gave something up for good."""

    def text_encoded(self, request: GenerationRequest, reuse: TextReuse) -> None:
        """The texts of a generation became embeddings, some of which were remembered."""

    def steps_executed(self, request: GenerationRequest, stage: Stage, steps: int) -> None:
        """A job completed denoising steps."""

    def stage_started(self, request: GenerationRequest, stage: Stage, image_index: int | None) -> None:
        """A stage began."""

    def stage_ended(
        self, request: GenerationRequest, stage: Stage, image_index: int | None, outcome: Outcome, elapsed: float
    ) -> None:
        """A stage ended, well or not."""

    def fallback(
        self,
        request: GenerationRequest,
        kind: FallbackKind,
        from_stage: Stage,
        to_stage: Stage,
        reason: FallbackReason,
        message: str,
    ) -> None:
        """A fallback was taken for one image."""

    def image_encoded(self, request: GenerationRequest, mime_type: str, size_bytes: int) -> None:
        """An image file is ready."""

    def cancelled(self, request: GenerationRequest, stage: Stage, latency: float) -> None:
        """A cancelled generation stopped."""

    def wasted(self, reason: Outcome, device_seconds: float) -> None:
        """Device time was spent in vain: on a generation that delivers nothing, or on a refiner that was given up."""

    def used(self, request: GenerationRequest, outcome: Outcome, usage: Usage) -> None:
        """What a generation took from the device, told right before its end."""

    def ended(self, request: GenerationRequest, outcome: Outcome, elapsed: float, error: Exception | None) -> None:
        """A generation reached its terminal state. Exactly once for each that was accepted."""


class FanOut(Fan, EngineEvents):
    """Passes every event to several listeners. One that raises is reported; the others and the engine go on."""

    def __init__(self, listeners: Sequence[EngineEvents], on_error: OnError) -> None:
        """Args: listeners in order, and who hears the name of the event and what a listener raised at it."""
        super().__init__(listeners, EngineEvents, on_error)
