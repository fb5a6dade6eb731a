"""The engine's events as metrics, and listeners that fail."""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections import Counter
from collections.abc import Callable

import pytest

from imagegen_server import core
from imagegen_server.core import EngineObserver, QueueState
from imagegen_server.telemetry import Metrics, MetricsObserver, fan_out

MakeRequest = Callable[..., core.GenerationRequest]
Value = Callable[..., float | None]

EVENTS = sorted(name for name, _ in inspect.getmembers(EngineObserver, inspect.isfunction) if not name.startswith("_"))


@pytest.fixture
def observer(metrics: Metrics) -> MetricsObserver:
    """The observer under test."""
    return MetricsObserver(metrics, "shapes")


def test_a_generation_from_admission_to_its_end(
    observer: MetricsObserver, value: Value, make_request: MakeRequest, plan: core.Plan
) -> None:
    """Each event of a good generation is found in its series with its value."""
    request = make_request(priority=core.Priority.BATCH)
    observer.accepted(request, plan)
    observer.queue_changed(QueueState(queued=3, running=2, delivering=1, capacity=64))
    assert value("imagegen_requests_in_flight", model="shapes") == 1
    assert value("imagegen_requests_queued", model="shapes") == 3
    assert value("imagegen_requests_delivering", model="shapes") == 1
    assert value("imagegen_queue_capacity", model="shapes") == 64
    observer.first_turn(request, 0.2)
    assert value("imagegen_queue_wait_seconds_sum", priority="batch") == 0.2
    assert value("imagegen_queue_wait_seconds_count", priority="interactive") == 0
    observer.batch_executed(core.Stage.BASE, 6, 3, 0.04)
    assert value("imagegen_step_duration_seconds_sum", model="shapes", stage="base") == 0.04
    assert value("imagegen_batch_rows_sum", stage="base") == 6
    assert value("imagegen_batch_rows_bucket", stage="base", le="4.0") == 0
    assert value("imagegen_batch_rows_bucket", stage="base", le="8.0") == 1
    observer.steps_executed(request, core.Stage.BASE, 2)
    assert value("imagegen_stage_steps_total", model="shapes", stage="base") == 2
    observer.first_progress(request, 0.7)
    assert value("imagegen_time_to_first_progress_seconds_sum", model="shapes") == 0.7
    observer.stage_ended(request, core.Stage.BASE, 0, core.Outcome.OK, 1.5)
    assert value("imagegen_stage_duration_seconds_sum", model="shapes", stage="base", outcome="ok") == 1.5
    observer.image_encoded(request, "image/webp", 5000)
    assert value("imagegen_images_total", model="shapes", format="webp") == 1
    assert value("imagegen_image_bytes_sum", model="shapes", format="webp") == 5000
    observer.ended(request, core.Outcome.OK, 2.5, None)
    assert value("imagegen_request_duration_seconds_sum", model="shapes", outcome="ok") == 2.5
    assert value("imagegen_request_duration_seconds_count", model="shapes", outcome="ok") == 1
    assert value("imagegen_requests_in_flight", model="shapes") == 0


def test_turns_without_steps_have_no_rows(observer: MetricsObserver, value: Value) -> None:
    """Text encoding and decoding count neither as steps nor as batches."""
    observer.batch_executed(core.Stage.TEXT_ENCODE, 1, 1, 0.5)
    observer.batch_executed(core.Stage.VAE_DECODE, 1, 1, 0.5)
    for stage in core.STEP_STAGES:
        assert value("imagegen_step_duration_seconds_count", model="shapes", stage=stage) == 0
        assert value("imagegen_batch_rows_count", stage=stage) == 0
    assert value("imagegen_batch_rows_count", stage="text_encode") is None


def test_what_goes_wrong(observer: MetricsObserver, value: Value, make_request: MakeRequest) -> None:
    """Fallbacks, cancels and wasted time are counted by stage and reason."""
    request = make_request()
    taken = core.FallbackTaken(
        image_index=0,
        kind=core.FallbackKind.REFINER_TO_BASE,
        from_stage=core.Stage.REFINER,
        to_stage=core.Stage.BASE,
        reason=core.FallbackReason.OOM,
        message="out of memory",
    )
    observer.fallback(request, taken)
    observer.cancelled(request, core.Stage.REFINER, 0.02)
    observer.wasted(core.Outcome.CANCELLED, 1.25)
    observer.wasted(core.Outcome.CANCELLED, 0.5)
    assert value("imagegen_fallbacks_total", **{"from": "refiner", "to": "base", "reason": "oom"}) == 1
    assert value("imagegen_cancelled_total", stage="refiner") == 1
    assert value("imagegen_cancelled_total", stage="base") == 0
    assert value("imagegen_cancel_latency_seconds_sum", stage="refiner") == 0.02
    assert value("imagegen_wasted_device_seconds_total", reason="cancelled") == 1.75


def test_what_the_device_gave(observer: MetricsObserver, value: Value, make_request: MakeRequest) -> None:
    """Device time is counted for each turn; what a generation took is observed if it delivered, and as far as known."""
    observer.device_used(core.Stage.TEXT_ENCODE, 0.25)
    observer.device_used(core.Stage.BASE, 1.5)
    observer.device_used(core.Stage.BASE, 0.5)
    assert value("imagegen_device_seconds_total", model="shapes", stage="text_encode") == 0.25
    assert value("imagegen_device_seconds_total", model="shapes", stage="base") == 2
    usage = core.Usage(device_seconds=2.25, wasted_device_seconds=0.0, energy_joules=900.0, peak_memory_bytes=2**33)
    observer.used(make_request(), core.Outcome.DEGRADED, usage)
    observer.used(make_request(), core.Outcome.CANCELLED, usage)
    unknown = core.Usage(device_seconds=1.0, wasted_device_seconds=0.0, energy_joules=None, peak_memory_bytes=None)
    observer.used(make_request(), core.Outcome.OK, unknown)
    assert value("imagegen_generation_device_seconds_sum", model="shapes") == 3.25
    assert value("imagegen_generation_device_seconds_count", model="shapes") == 2
    assert value("imagegen_generation_energy_joules_sum", model="shapes") == 900
    assert value("imagegen_generation_energy_joules_count", model="shapes") == 1
    assert value("imagegen_generation_peak_memory_bytes_sum", model="shapes") == 2**33
    assert value("imagegen_generation_peak_memory_bytes_bucket", model="shapes", le="8.589934592e+09") == 1
    assert value("imagegen_generation_peak_memory_bytes_bucket", model="shapes", le="4.294967296e+09") == 0


def test_smaller_batches_show_as_degraded(observer: MetricsObserver, value: Value) -> None:
    """A cap on the rows of a batch is visible for as long as it lasts."""
    assert value("imagegen_degraded", feature="batch_rows") == 0
    observer.rows_capped(core.Stage.BASE, 4)
    assert value("imagegen_degraded", feature="batch_rows") == 1


def test_what_is_given_up_is_counted_each_time(observer: MetricsObserver, value: Value) -> None:
    """The gauge says that something is missing; only the counter says how often, and moves when more goes."""
    observer.rows_capped(core.Stage.BASE, 4)
    observer.rows_capped(core.Stage.BASE, 2)
    observer.adapted(core.Adaptation(feature=core.Feature.RESIDENCY, message="UNets take turns"))
    counts = {feature: value("imagegen_adaptations_total", feature=feature) for feature in ("batch_rows", "residency")}
    assert counts == {"batch_rows": 2, "residency": 1}
    assert value("imagegen_adaptations_total", feature="full_decode") == 0


def test_the_memory_plan_in_force_is_shown(metrics: Metrics, observer: MetricsObserver, value: Value) -> None:
    """After parts began to take turns, and once more; there is one series, as at the start."""
    plan = core.MemoryPlan(
        residency=core.Residency.SWAP,
        precision=core.Precision.FP16,
        available_bytes=20,
        weights_bytes=7,
        working_bytes=2,
        components=(),
        explanation="",
    )
    taken = core.Adaptation(feature=core.Feature.RESIDENCY, message="UNets take turns", memory_plan=plan)
    observer.adapted(taken)
    assert value("imagegen_memory_planned_bytes", model="shapes") == 0, "nothing is told before what was loaded"
    labels = {"model": "shapes", "revision": "abc", "dtype": "fp16"}
    metrics.describe_model(
        "shapes",
        revision="abc",
        dtype="fp16",
        residency="both",
        load_seconds={},
        budget_bytes=20,
        planned_bytes=12,
    )
    for weights in (7, 5):
        observer.adapted(dataclasses.replace(taken, memory_plan=dataclasses.replace(plan, weights_bytes=weights)))
        assert value("imagegen_model_info", residency="both", **labels) is None
        assert value("imagegen_model_info", residency="swap", **labels) == 1
        assert value("imagegen_memory_planned_bytes", model="shapes") == weights + 2


@pytest.mark.parametrize("reason", list(core.RejectReason))
def test_refusals_are_counted_by_reason_and_as_an_outcome(
    observer: MetricsObserver, value: Value, make_request: MakeRequest, reason: core.RejectReason
) -> None:
    """A refusal is one count of its reason and one request that took no time; it is never in flight."""
    observer.rejected(core.Refusal(request_id="r", model=make_request().model, reason=reason))
    outcome = "invalid" if reason is core.RejectReason.INVALID else "rejected"
    assert value("imagegen_rejected_total", reason=reason) == 1
    assert value("imagegen_request_duration_seconds_count", model="shapes", outcome=outcome) == 1
    assert value("imagegen_request_duration_seconds_sum", model="shapes", outcome=outcome) == 0
    assert value("imagegen_requests_in_flight", model="shapes") == 0


def test_refusals_of_others_models_and_of_incomplete_requests(
    observer: MetricsObserver, value: Value, make_request: MakeRequest
) -> None:
    """A model that is not served, and a request that was not complete, count as `other`."""
    observer.rejected(core.Refusal(request_id="r", model="caller's invention", reason=core.RejectReason.DEADLINE))
    observer.rejected(core.Refusal(request_id="r", model="", reason=core.RejectReason.INVALID))
    assert value("imagegen_request_duration_seconds_count", model="other", outcome="rejected") == 1
    assert value("imagegen_request_duration_seconds_count", model="other", outcome="invalid") == 1


def test_accepted_is_what_ended_and_what_is_in_flight(
    observer: MetricsObserver, value: Value, make_request: MakeRequest, plan: core.Plan
) -> None:
    """After every event of a random life, admissions equal ends by outcome plus in flight."""
    rng = random.Random(5)
    ends = [core.Outcome.OK, core.Outcome.DEGRADED, core.Outcome.CANCELLED, core.Outcome.DEADLINE, core.Outcome.ERROR]
    running: list[core.GenerationRequest] = []
    accepted = 0
    expected: Counter[core.Outcome] = Counter()
    for _ in range(200):
        if running and rng.random() < 0.45:
            outcome = rng.choice(ends)
            expected[outcome] += 1
            observer.ended(running.pop(rng.randrange(len(running))), outcome, rng.random(), None)
        elif rng.random() < 0.2:
            full = core.RejectReason.QUEUE_FULL
            observer.rejected(core.Refusal(request_id="r", model=make_request().model, reason=full))
        else:
            accepted += 1
            running.append(make_request(request_id=str(accepted)))
            observer.accepted(running[-1], plan)
        ended = sum(
            value("imagegen_request_duration_seconds_count", model="shapes", outcome=end) or 0.0 for end in ends
        )
        assert accepted == ended + (value("imagegen_requests_in_flight", model="shapes") or 0.0)
    for outcome, count in expected.items():
        assert value("imagegen_request_duration_seconds_count", model="shapes", outcome=outcome) == count


class _Recorder(EngineObserver):
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[object, ...]]] = []

    def __getattribute__(self, name: str) -> object:
        if name in EVENTS:
            return lambda *arguments: self.heard.append((name, arguments))
        return super().__getattribute__(name)


class _Failing(EngineObserver):
    """Raises at every event."""

    def __getattribute__(self, name: str) -> object:
        if name in EVENTS:

            def fail(*_: object) -> None:
                raise RuntimeError(name)

            return fail
        return super().__getattribute__(name)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_reaches_every_listener_unchanged(event: str) -> None:
    """A listener between two others raises: both hear the event with its arguments, and the failure is reported."""
    before, after = _Recorder(), _Recorder()
    failures: list[tuple[str, str]] = []
    listeners = (before, _Failing(), after)
    fan = fan_out(EngineObserver, listeners, lambda name, error: failures.append((name, str(error))))
    count = len(inspect.signature(getattr(EngineObserver, event)).parameters) - 1
    arguments = tuple(object() for _ in range(count))
    assert getattr(fan, event)(*arguments) is None
    assert before.heard == after.heard == [(event, arguments)]
    assert failures == [(event, event)]


def test_nobody_is_asked_at_an_event_that_it_does_not_hear(observer: MetricsObserver) -> None:
    """What nobody hears is left as it is: it comes with every step, and must cost nothing."""
    fan = fan_out(EngineObserver, (observer, EngineObserver()), lambda *_: None)
    assert "stage_started" not in vars(MetricsObserver)
    assert fan.stage_started.__func__ is EngineObserver.stage_started  # type: ignore[attr-defined] # a bound method
    assert sorted(vars(fan)) == sorted(event for event in EVENTS if event in vars(MetricsObserver))


@pytest.mark.parametrize("event", EVENTS)
def test_a_plain_listener_does_nothing(event: str) -> None:
    """A listener that overrides nothing takes every event."""
    count = len(inspect.signature(getattr(EngineObserver, event)).parameters) - 1
    assert getattr(EngineObserver(), event)(*(object() for _ in range(count))) is None
