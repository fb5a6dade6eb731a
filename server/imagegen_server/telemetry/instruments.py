"""The instruments of the catalogue in one registry, with every series of the closed sets from the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Final, TypeVar

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.registry import CollectorRegistry

from imagegen_server.core import STEP_STAGES, FallbackReason, Feature, Outcome, Priority, RejectReason, Stage
from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m

_Instrument = TypeVar("_Instrument", Counter, Gauge, Histogram)
_OTHER_RPC: Final = ("bidi_stream", closed_sets.OTHER_METHOD, closed_sets.OTHER_METHOD)


class Metrics:
    """The instruments of the catalogue in one registry.

    Thread-safe, as the instruments are. A metric's child is had by kind and label values: `counter(REJECTED, reason)`.
    """

    def __init__(
        self, registry: CollectorRegistry, *, models: Sequence[str], methods: Iterable[tuple[str, str, str]] = ()
    ) -> None:
        """Creates every instrument and every series of the closed sets.

        Args:
            registry: where they are registered; ValueError from it if they already are.
            models: names of the model profiles that this server serves.
            methods: (grpc_type, grpc_service, grpc_method) of the RPCs that this server has.
        """
        self.registry = registry
        self._models = frozenset(models)
        self.methods = frozenset(methods)
        """(grpc_type, grpc_service, grpc_method) of the RPCs that this server has."""
        self._children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}
        """By name and label values: finding one here costs a tenth of asking the instrument. The sets are closed."""
        self._info: tuple[str, ...] | None = None
        """Model, revision, dtype and residency, the label values of one series, once something is loaded."""
        self._instruments = {metric: _instrument(metric, registry) for metric in m.CATALOGUE if not metric.collected}
        for metric, sets in _closed_sets(sorted(self._models), sorted(self.methods)).items():
            for values in sets:
                self._instruments[metric].labels(*values)

    def counter(self, metric: m.Metric, *values: str) -> Counter:
        """Returns the counter of a metric for its label values, in the catalogue's order; TypeError if it is none."""
        return self._child(metric, values, Counter)

    def gauge(self, metric: m.Metric, *values: str) -> Gauge:
        """Returns the gauge of a metric for its label values; TypeError if it is none."""
        return self._child(metric, values, Gauge)

    def histogram(self, metric: m.Metric, *values: str) -> Histogram:
        """Returns the histogram of a metric for its label values; TypeError if it is none."""
        return self._child(metric, values, Histogram)

    def model(self, name: str) -> str:
        """Returns the `model` label of a name that may come from a caller."""
        return name if name in self._models else closed_sets.OTHER_MODEL

    def rpc(self, grpc_type: str, service: str, method: str) -> tuple[str, str, str]:
        """Returns the labels of an RPC that may come from a caller."""
        known = (grpc_type, service, method)
        return known if known in self.methods else _OTHER_RPC

    def describe_model(
        self,
        model: str,
        *,
        revision: str,
        dtype: str,
        residency: str,
        load_seconds: Mapping[Stage, float],
        budget_bytes: int,
        planned_bytes: int,
    ) -> None:
        """Records what was loaded, how long it took for the step stages that are there, and the memory plan."""
        self._show((self.model(model), revision, dtype, residency), planned_bytes)
        for stage, seconds in load_seconds.items():
            self.gauge(m.MODEL_LOADED, self.model(model), stage).set(1)
            self.gauge(m.MODEL_LOAD_SECONDS, self.model(model), stage).set(seconds)
        self.gauge(m.MEMORY_BUDGET, self.model(model)).set(budget_bytes)
        self.set_degraded(Feature.REFINER, Stage.REFINER not in load_seconds)

    def change_plan(self, *, residency: str, planned_bytes: int) -> None:
        """Records another memory plan of what was loaded; nothing before that."""
        if self._info is not None:
            self._show((*self._info[:-1], residency), planned_bytes)

    def _show(self, info: tuple[str, ...], planned_bytes: int) -> None:
        if self._info is not None:
            self._instruments[m.MODEL_INFO].remove(*self._info)
            self._children.pop((m.MODEL_INFO.name, *self._info))
        self._info = info
        self.gauge(m.MODEL_INFO, *info).set(1)
        self.gauge(m.MEMORY_PLANNED, info[0]).set(planned_bytes)

    def describe_build(self, version: str) -> None:
        """Records the server's version."""
        self.gauge(m.BUILD_INFO, version).set(1)

    def set_draining(self, draining: bool) -> None:
        """Records whether the server is shutting down."""
        self.gauge(m.DRAINING).set(int(draining))

    def set_serving(self, serving: bool) -> None:
        """Records whether generations are taken."""
        self.gauge(m.SERVING).set(int(serving))

    def set_degraded(self, feature: Feature, degraded: bool) -> None:
        """Records whether the server does without a feature."""
        self.gauge(m.DEGRADED, feature).set(int(degraded))

    def auth_failed(self, reason: str) -> None:
        """Counts a call that was refused for its credentials; reasons are closed_sets.AUTH_FAILURES."""
        self.counter(m.AUTH_FAILURES_TOTAL, reason).inc()

    def count_gpu_error(self, call: str, error: str) -> None:
        """Counts a GPU reading that failed; for the collectors."""
        self.counter(m.GPU_COLLECTOR_ERRORS, call, error).inc()

    def write_stalled(self, seconds: float) -> None:
        """Records that a message waited for a slow reader."""
        self.histogram(m.WRITE_STALL).observe(seconds)

    def _child(self, metric: m.Metric, values: tuple[str, ...], kind: type[_Instrument]) -> _Instrument:
        key = (metric.name, *values)
        child = self._children.get(key)
        if child is None:
            instrument = self._instruments[metric]
            child = self._children[key] = instrument.labels(*values) if metric.labels else instrument
        if not isinstance(child, kind):
            raise TypeError(f"{metric.name} is a {metric.kind}")
        return child


def _instrument(metric: m.Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    """Creates one instrument."""
    match metric.kind:
        case m.Kind.COUNTER:
            return Counter(metric.name, metric.help, metric.labels, registry=registry)
        case m.Kind.GAUGE:
            return Gauge(metric.name, metric.help, metric.labels, registry=registry)
        case m.Kind.HISTOGRAM:
            return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)


def _closed_sets(
    models: Sequence[str], methods: Sequence[tuple[str, str, str]]
) -> Mapping[m.Metric, Iterable[tuple[str, ...]]]:
    """Returns the label values of every series that exists from the start."""
    rpcs = (*methods, _OTHER_RPC)
    one_model = tuple((model,) for model in models)
    step_stages = tuple(product(models, STEP_STAGES))
    stages = tuple((stage,) for stage in Stage)
    sets: dict[m.Metric, Iterable[tuple[str, ...]]] = {
        m.RPC_HANDLED: ((*rpc, code) for rpc, code in product(rpcs, closed_sets.RPC_CODES.values())),
        m.REQUEST_DURATION: product((*models, closed_sets.OTHER_MODEL), Outcome),
        m.STAGE_DURATION: product(models, Stage, closed_sets.STAGE_OUTCOMES),
        m.BATCH_ROWS: ((stage,) for stage in STEP_STAGES),
        m.QUEUE_WAIT: ((priority,) for priority in Priority),
        m.REJECTED: ((reason,) for reason in RejectReason),
        m.FALLBACKS: ((*pair, reason) for pair, reason in product(closed_sets.FALLBACK_STAGES, FallbackReason)),
        m.TEXTS_ENCODED: product(models, closed_sets.TEXT_SOURCES),
        m.WASTED: ((reason,) for reason in closed_sets.WASTE_REASONS),
        m.DEGRADED: ((feature,) for feature in closed_sets.DEGRADED_FEATURES),
        m.ADAPTATIONS: ((feature,) for feature in closed_sets.DEGRADED_FEATURES if feature is not Feature.REFINER),
        m.AUTH_FAILURES_TOTAL: ((reason,) for reason in closed_sets.AUTH_FAILURES),
        m.STORE_WRITES_TOTAL: ((outcome,) for outcome in closed_sets.STORE_WRITES),
        m.STORE_READS_TOTAL: ((outcome,) for outcome in closed_sets.STORE_READS),
        m.STORE_REMOVED: ((reason,) for reason in closed_sets.STORE_REMOVALS),
        m.DEVICE_SECONDS: product(models, closed_sets.DEVICE_STAGES),
        m.GPU_COLLECTOR_ERRORS: product(closed_sets.GPU_CALLS, closed_sets.GPU_ERRORS),
    }
    sets |= dict.fromkeys((m.RPC_STARTED, m.RPC_RECEIVED, m.RPC_SENT, m.RPC_SECONDS), rpcs)
    for_each_model = (
        m.FIRST_PROGRESS,
        m.IN_FLIGHT,
        m.QUEUED,
        m.DELIVERING,
        m.QUEUE_CAPACITY,
        m.GENERATION_DEVICE_SECONDS,
        m.GENERATION_ENERGY,
        m.GENERATION_PEAK_MEMORY,
        m.MEMORY_BUDGET,
        m.MEMORY_PLANNED,
    )
    sets |= dict.fromkeys(for_each_model, one_model)
    sets |= dict.fromkeys((m.STEP_DURATION, m.STAGE_STEPS, m.MODEL_LOADED, m.MODEL_LOAD_SECONDS), step_stages)
    sets |= dict.fromkeys((m.CANCELLED, m.CANCEL_LATENCY), stages)
    sets |= dict.fromkeys((m.IMAGES, m.IMAGE_BYTES), tuple(product(models, closed_sets.IMAGE_FORMATS)))
    return sets
