"""What the engine tells of its work, and to whom."""

from __future__ import annotations

from dataclasses import dataclass

from imagegen_server.core.plans import FallbackTaken, Plan
from imagegen_server.core.requests import GenerationRequest
from imagegen_server.core.steps import Adaptation, TextReuse, Usage
from imagegen_server.core.words import Outcome, RejectReason, Stage


@dataclass(kw_only=True, frozen=True, slots=True)
class QueueState:
    """How full the engine is."""

    queued: int
    """Generations admitted that wait for their first turn."""
    running: int
    """Generations on the device, being encoded or being sent."""
    delivering: int
    """Those of the running ones that have left the device: their images are being encoded or sent."""
    capacity: int
    """Most generations that may be queued."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Refusal:
    """A generation that was not let in."""

    request_id: str
    model: str
    """What the caller wrote, which need not exist; empty where nobody looks at the request."""
    reason: RejectReason
    details: tuple[str, ...] = ()
    """What exactly, in the server's own words: fields of the contract that are wrong, or which quota is used up."""
    tenant: str = ""
    """Whose it would have been; empty for a caller who is not known."""
    key_id: str = ""
    """Which of the tenant's API keys was shown; empty for other credentials."""


@dataclass(kw_only=True, frozen=True, slots=True)
class AuthFailure:
    """A call, of whichever method, that was refused for its credentials."""

    method: str
    """Path of a method that is served, such as /imagegen.v1.ImageGen/ListModels."""
    request_id: str
    reason: str
    """missing, invalid, expired or forbidden."""
    detail: str
    """More, for operators; there is nothing of the credentials in it."""
    tenant: str = ""
    """Who called, where that is known: `forbidden`."""
    key_id: str = ""
    """Which of the tenant's API keys was shown; empty for other credentials."""


class EngineObserver:
    """Hears the engine's events and does nothing; observers override what they need.

    Methods are called from any of the engine's threads, return at once and never raise. Durations in seconds.
    """

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        """A generation was admitted."""

    def rejected(self, refusal: Refusal) -> None:
        """A generation was refused."""

    def queue_changed(self, state: QueueState) -> None:
        """The engine was made, or the number of queued, running or delivering generations changed."""

    def first_turn(self, request: GenerationRequest, waited: float) -> None:
        """A generation left the queue."""

    def first_progress(self, request: GenerationRequest, elapsed: float) -> None:
        """The first denoising step of a generation was executed, `elapsed` after its admission."""

    def batch_executed(self, stage: Stage, rows: int, evaluations: int, elapsed: float) -> None:
        """One turn of the device ended, for `evaluations` jobs in `rows` rows."""

    def device_used(self, stage: Stage, elapsed: float) -> None:
        """The device worked on a turn, well or not."""

    def rows_capped(self, stage: Stage, rows: int) -> None:
        """Batches of a stage will have at most `rows` rows from now on: more did not fit into the device's memory."""

    def adapted(self, adaptation: Adaptation) -> None:
        """The runner gave something up for good."""

    def text_encoded(self, request: GenerationRequest, reuse: TextReuse) -> None:
        """The texts of a generation became embeddings, some of which were remembered."""

    def steps_executed(self, request: GenerationRequest, stage: Stage, steps: int) -> None:
        """A job of the request completed denoising steps."""

    def stage_started(self, request: GenerationRequest, stage: Stage, image_index: int | None) -> None:
        """A stage began."""

    def stage_ended(
        self, request: GenerationRequest, stage: Stage, image_index: int | None, outcome: Outcome, elapsed: float
    ) -> None:
        """A stage ended, well or not."""

    def fallback(self, request: GenerationRequest, taken: FallbackTaken) -> None:
        """A fallback was taken for one image."""

    def image_encoded(self, request: GenerationRequest, mime_type: str, size_bytes: int) -> None:
        """An image file is ready."""

    def cancelled(self, request: GenerationRequest, stage: Stage, latency: float) -> None:
        """A cancelled generation stopped, in `stage`, `latency` after it was asked to."""

    def wasted(self, reason: Outcome, device_seconds: float) -> None:
        """Device time was spent in vain: on a generation that delivers nothing, or on a refiner that was given up."""

    def used(self, request: GenerationRequest, outcome: Outcome, usage: Usage) -> None:
        """What a generation took from the device. Once for each that was accepted, right before `ended`.

        Of one that was stopped, an evaluation that the device was still at is not in it; `wasted` tells it afterwards.
        """

    def ended(self, request: GenerationRequest, outcome: Outcome, elapsed: float, error: Exception | None) -> None:
        """A generation reached its terminal state, `elapsed` after its admission.

        Exactly once for each that was accepted.
        """
