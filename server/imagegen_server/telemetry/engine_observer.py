"""The engine's events as metrics."""

from __future__ import annotations

from imagegen_server.core import (
    STEP_STAGES,
    Adaptation,
    EngineObserver,
    FallbackTaken,
    Feature,
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
from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.instruments import Metrics
from imagegen_server.telemetry.traces import Traces, Untraced, exemplar

_FORMATS = {f"image/{name}": name for name in closed_sets.IMAGE_FORMATS}


class MetricsObserver(EngineObserver):
    """Turns the engine's events into metrics.

    At rest and at any moment: generations accepted = those ended, by outcome, + imagegen_requests_in_flight.
    """

    def __init__(self, metrics: Metrics, model: str, traces: Traces | None = None) -> None:
        """Args: metrics; the name of the one model that the engine runs; whose traces are exemplars, None for none."""
        self._metrics = metrics
        self._traces = traces or Untraced()
        self._model = metrics.model(model)
        # what every step asks for
        self._step_seconds = {stage: metrics.histogram(m.STEP_DURATION, self._model, stage) for stage in STEP_STAGES}
        self._batch_rows = {stage: metrics.histogram(m.BATCH_ROWS, stage) for stage in STEP_STAGES}
        self._device_seconds = {
            stage: metrics.counter(m.DEVICE_SECONDS, self._model, stage) for stage in closed_sets.DEVICE_STAGES
        }

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        """Counts it as in flight."""
        self._metrics.gauge(m.IN_FLIGHT, self._metrics.model(request.model)).inc()

    def rejected(self, refusal: Refusal) -> None:
        """Counts a refusal, by the engine or before it."""
        outcome = Outcome.INVALID if refusal.reason is RejectReason.INVALID else Outcome.REJECTED
        self._metrics.counter(m.REJECTED, refusal.reason).inc()
        trace = exemplar(self._traces.current())
        self._metrics.histogram(m.REQUEST_DURATION, self._metrics.model(refusal.model), outcome).observe(0.0, trace)

    def queue_changed(self, state: QueueState) -> None:
        """Shows how full the queue is, and how many are being delivered."""
        self._metrics.gauge(m.QUEUED, self._model).set(state.queued)
        self._metrics.gauge(m.DELIVERING, self._model).set(state.delivering)
        self._metrics.gauge(m.QUEUE_CAPACITY, self._model).set(state.capacity)

    def first_turn(self, request: GenerationRequest, waited: float) -> None:
        """Observes the wait, by priority."""
        self._metrics.histogram(m.QUEUE_WAIT, request.priority).observe(waited, self._exemplar(request))

    def first_progress(self, request: GenerationRequest, elapsed: float) -> None:
        """Observes the time to the first step."""
        model = self._metrics.model(request.model)
        self._metrics.histogram(m.FIRST_PROGRESS, model).observe(elapsed, self._exemplar(request))

    def batch_executed(self, stage: Stage, rows: int, evaluations: int, elapsed: float) -> None:
        """Observes a turn of a step stage; text encoding and decoding have no rows."""
        if stage in STEP_STAGES:
            self._step_seconds[stage].observe(elapsed)
            self._batch_rows[stage].observe(rows)

    def device_used(self, stage: Stage, elapsed: float) -> None:
        """Counts the device's time."""
        self._device_seconds[stage].inc(elapsed)

    def rows_capped(self, stage: Stage, rows: int) -> None:
        """Counts, and shows that batches are smaller than they should be."""
        self._give_up(Feature.BATCH_ROWS)

    def adapted(self, adaptation: Adaptation) -> None:
        """Counts, and shows what the server does without, and the memory plan in force."""
        self._give_up(adaptation.feature)
        if (plan := adaptation.memory_plan) is not None:
            planned = plan.weights_bytes + plan.working_bytes
            self._metrics.change_plan(residency=plan.residency.value, planned_bytes=planned)

    def _give_up(self, feature: Feature) -> None:
        self._metrics.counter(m.ADAPTATIONS, feature).inc()
        self._metrics.set_degraded(feature, True)

    def text_encoded(self, request: GenerationRequest, reuse: TextReuse) -> None:
        """Counts the texts by where their embeddings came from."""
        model = self._metrics.model(request.model)
        self._metrics.counter(m.TEXTS_ENCODED, model, "reused").inc(reuse.reused)
        self._metrics.counter(m.TEXTS_ENCODED, model, "encoded").inc(reuse.encoded)

    def steps_executed(self, request: GenerationRequest, stage: Stage, steps: int) -> None:
        """Counts steps."""
        self._metrics.counter(m.STAGE_STEPS, self._metrics.model(request.model), stage).inc(steps)

    def stage_ended(
        self, request: GenerationRequest, stage: Stage, image_index: int | None, outcome: Outcome, elapsed: float
    ) -> None:
        """Observes the stage's duration."""
        model = self._metrics.model(request.model)
        trace = self._exemplar(request)
        self._metrics.histogram(m.STAGE_DURATION, model, stage, outcome).observe(elapsed, trace)

    def fallback(self, request: GenerationRequest, taken: FallbackTaken) -> None:
        """Counts it."""
        self._metrics.counter(m.FALLBACKS, taken.from_stage, taken.to_stage, taken.reason).inc()

    def image_encoded(self, request: GenerationRequest, mime_type: str, size_bytes: int) -> None:
        """Counts the file and observes its size."""
        labels = (self._metrics.model(request.model), _FORMATS[mime_type])
        self._metrics.counter(m.IMAGES, *labels).inc()
        self._metrics.histogram(m.IMAGE_BYTES, *labels).observe(size_bytes)

    def cancelled(self, request: GenerationRequest, stage: Stage, latency: float) -> None:
        """Counts it and observes how long the stop took."""
        self._metrics.counter(m.CANCELLED, stage).inc()
        self._metrics.histogram(m.CANCEL_LATENCY, stage).observe(latency)

    def wasted(self, reason: Outcome, device_seconds: float) -> None:
        """Counts device time; reasons are cancelled, deadline and error."""
        self._metrics.counter(m.WASTED, reason).inc(device_seconds)

    def used(self, request: GenerationRequest, outcome: Outcome, usage: Usage) -> None:
        """Observes what an image that was delivered cost; what was lost is counted as wasted."""
        if outcome not in (Outcome.OK, Outcome.DEGRADED):
            return
        model = self._metrics.model(request.model)
        self._metrics.histogram(m.GENERATION_DEVICE_SECONDS, model).observe(usage.device_seconds)
        if usage.energy_joules is not None:
            self._metrics.histogram(m.GENERATION_ENERGY, model).observe(usage.energy_joules)
        if usage.peak_memory_bytes is not None:
            self._metrics.histogram(m.GENERATION_PEAK_MEMORY, model).observe(usage.peak_memory_bytes)

    def ended(self, request: GenerationRequest, outcome: Outcome, elapsed: float, error: Exception | None) -> None:
        """Observes the duration and takes the generation out of flight."""
        model = self._metrics.model(request.model)
        trace = self._exemplar(request)
        self._metrics.histogram(m.REQUEST_DURATION, model, outcome).observe(elapsed, trace)
        self._metrics.gauge(m.IN_FLIGHT, model).dec()

    def _exemplar(self, request: GenerationRequest) -> dict[str, str] | None:
        """Returns the exemplar that leads to the generation's trace; None if that is not kept."""
        return exemplar(self._traces.of(request))
