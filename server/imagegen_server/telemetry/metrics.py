"""The metric catalogue as data, and the instruments made from it.

Base units only. Every label value comes from a closed set that is known at the start: a model that is not among the
configured ones becomes `other`, an unknown RPC `_OTHER`, so no caller can mint a series. Every series exists from
the start, at 0, except what a device may not support: a collector reports that, or leaves it out.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, TypeVar

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.registry import CollectorRegistry

from imagegen_server.core import STEP_STAGES, FallbackReason, Outcome, Priority, RejectReason, Stage

_Instrument = TypeVar("_Instrument", Counter, Gauge, Histogram)

OTHER_MODEL: Final = "other"
OTHER_METHOD: Final = "_OTHER"

RPC_TYPES = ("unary", "client_stream", "server_stream", "bidi_stream")
"""Values of the label grpc_type, as go-grpc-middleware spells them."""

RPC_CODES: Mapping[str, str] = {
    "OK": "OK",
    "CANCELLED": "Canceled",
    "UNKNOWN": "Unknown",
    "INVALID_ARGUMENT": "InvalidArgument",
    "DEADLINE_EXCEEDED": "DeadlineExceeded",
    "NOT_FOUND": "NotFound",
    "ALREADY_EXISTS": "AlreadyExists",
    "PERMISSION_DENIED": "PermissionDenied",
    "RESOURCE_EXHAUSTED": "ResourceExhausted",
    "FAILED_PRECONDITION": "FailedPrecondition",
    "ABORTED": "Aborted",
    "OUT_OF_RANGE": "OutOfRange",
    "UNIMPLEMENTED": "Unimplemented",
    "INTERNAL": "Internal",
    "UNAVAILABLE": "Unavailable",
    "DATA_LOSS": "DataLoss",
    "UNAUTHENTICATED": "Unauthenticated",
}
"""Names of the status codes to values of the label grpc_code, as go-grpc-middleware spells them."""

IMAGE_FORMATS = ("png", "jpeg", "webp")
STAGE_OUTCOMES = (Outcome.OK, Outcome.DEGRADED, Outcome.CANCELLED, Outcome.DEADLINE, Outcome.ERROR)
WASTE_REASONS = (Outcome.CANCELLED, Outcome.DEADLINE, Outcome.ERROR)
FALLBACK_STAGES = ((Stage.REFINER, Stage.BASE),)
GPU_CALLS = ("init", "devices", "memory", "allocator")
GPU_ERRORS = ("not_supported", "no_permission", "lost", "timeout", "unknown")

_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60, 120)
_R = (*_S, 300)
_Q = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_T = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_RPC = (*_Q, 300)
_BYTES = tuple(4.0**exponent for exponent in range(5, 14))
"""1 KiB to 64 MiB."""


class Kind(enum.StrEnum):
    """What a metric is, as in the exposition's TYPE line."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(kw_only=True, frozen=True, slots=True)
class Metric:
    """One line of the catalogue."""

    name: str
    """As it is queried; a histogram's without _bucket, _sum and _count."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    collected: bool = False
    """Read by a collector when it is scraped; absent where the device has no answer."""


def _counter(name: str, help_: str, *labels: str, collected: bool = False) -> Metric:
    return Metric(name=name, kind=Kind.COUNTER, help=help_, labels=labels, collected=collected)


def _gauge(name: str, help_: str, *labels: str, collected: bool = False) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, help=help_, labels=labels, collected=collected)


def _histogram(name: str, buckets: tuple[float, ...], help_: str, *labels: str) -> Metric:
    return Metric(name=name, kind=Kind.HISTOGRAM, help=help_, labels=labels, buckets=buckets)


_METHOD = ("grpc_type", "grpc_service", "grpc_method")
RPC_STARTED = _counter("grpc_server_started_total", "RPCs that arrived.", *_METHOD)
RPC_HANDLED = _counter("grpc_server_handled_total", "RPCs that ended, by status code.", *_METHOD, "grpc_code")
RPC_RECEIVED = _counter("grpc_server_msg_received_total", "Messages received from callers.", *_METHOD)
RPC_SENT = _counter("grpc_server_msg_sent_total", "Messages sent to callers.", *_METHOD)
RPC_SECONDS = _histogram("grpc_server_handling_seconds", _RPC, "From an RPC's arrival to its end.", *_METHOD)

REQUEST_DURATION = _histogram(
    "imagegen_request_duration_seconds",
    _R,
    "From a generation's admission to its end; 0 if refused.",
    "model",
    "outcome",
)
STAGE_DURATION = _histogram(
    "imagegen_stage_duration_seconds", _S, "Wall time of a stage of one image.", "model", "stage", "outcome"
)
STEP_DURATION = _histogram(
    "imagegen_step_duration_seconds", _T, "Device time of one batched UNet evaluation.", "model", "stage"
)
STAGE_STEPS = _counter("imagegen_stage_steps_total", "Denoising steps executed, for each image.", "model", "stage")
BATCH_ROWS = _histogram("imagegen_batch_rows", (1, 2, 4, 8, 16, 32, 64), "Rows of an executed UNet batch.", "stage")
QUEUE_WAIT = _histogram(
    "imagegen_queue_wait_seconds", _Q, "From admission to the first turn on the device.", "priority"
)
FIRST_PROGRESS = _histogram(
    "imagegen_time_to_first_progress_seconds", _Q, "From admission to the first executed denoising step.", "model"
)
IN_FLIGHT = _gauge(
    "imagegen_requests_in_flight", "Generations admitted and not ended, the queued ones included.", "model"
)
QUEUED = _gauge("imagegen_requests_queued", "Generations that wait for the device.", "model")
QUEUE_CAPACITY = _gauge("imagegen_queue_capacity", "Most generations that may wait.", "model")
REJECTED = _counter("imagegen_rejected_total", "Generations refused before any work.", "reason")
CANCELLED = _counter(
    "imagegen_cancelled_total", "Generations stopped by their caller, by the stage they were in.", "stage"
)
CANCEL_LATENCY = _histogram("imagegen_cancel_latency_seconds", _Q, "From a cancel's arrival to the stop.", "stage")
FALLBACKS = _counter("imagegen_fallbacks_total", "Images made by departing from the plan.", "from", "to", "reason")
WASTED = _counter(
    "imagegen_wasted_device_seconds_total", "Device time of generations that delivered nothing.", "reason"
)
IMAGES = _counter("imagegen_images_total", "Image files made.", "model", "format")
IMAGE_BYTES = _histogram("imagegen_image_bytes", _BYTES, "Size of an image file.", "model", "format")
WRITE_STALL = _histogram("imagegen_stream_write_stall_seconds", _Q, "Time that one message waited for a slow reader.")
MODEL_LOADED = _gauge("imagegen_model_loaded", "1 if the stage's model is loaded.", "model", "stage")
MODEL_LOAD_SECONDS = _gauge("imagegen_model_load_seconds", "How long the stage's model took to load.", "model", "stage")
MODEL_INFO = _gauge(
    "imagegen_model_info", "1; labels describe the loaded model.", "model", "revision", "dtype", "residency"
)
BUILD_INFO = _gauge("imagegen_build_info", "1; the label is the server's version.", "version")
DRAINING = _gauge("imagegen_draining", "1 while the server shuts down and refuses generations.")

GPU_INFO = _gauge(
    "imagegen_gpu_info", "1; labels describe the GPU.", "gpu", "uuid", "name", "driver", "mig", collected=True
)
GPU_MEMORY_USED = _gauge(
    "imagegen_gpu_memory_used_bytes", "Device memory in use, by all processes.", "gpu", collected=True
)
GPU_MEMORY_TOTAL = _gauge("imagegen_gpu_memory_total_bytes", "Device memory.", "gpu", collected=True)
GPU_COLLECTOR_UP = _gauge("imagegen_gpu_collector_up", "1 while the GPU is being read; 0 without one.", collected=True)
GPU_COLLECTOR_ERRORS = _counter("imagegen_gpu_collector_errors_total", "Readings that failed.", "call", "error")

TORCH_ALLOCATED = _gauge("imagegen_torch_allocated_bytes", "Memory in tensors.", collected=True)
TORCH_RESERVED = _gauge("imagegen_torch_reserved_bytes", "Memory that the allocator holds.", collected=True)
TORCH_ALLOCATED_PEAK = _gauge(
    "imagegen_torch_allocated_peak_bytes",
    "Most memory in tensors since the measurement was last begun anew.",
    collected=True,
)
TORCH_INACTIVE_SPLIT = _gauge(
    "imagegen_torch_inactive_split_bytes",
    "Free memory in blocks that are partly in use: fragmentation.",
    collected=True,
)
TORCH_ALLOC_RETRIES = _counter(
    "imagegen_torch_alloc_retries_total", "Allocations that had to flush the cache first.", collected=True
)
TORCH_OOMS = _counter("imagegen_torch_ooms_total", "Allocations that failed for lack of memory.", collected=True)

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""Every metric that exists, in the order above."""


class Metrics:
    """The instruments of the catalogue in one registry.

    Thread-safe, as the instruments are. A metric's child for label values is had by kind: `counter(REJECTED, reason)`.
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
        self._methods = frozenset(methods)
        self._instruments = {metric: _instrument(metric, registry) for metric in CATALOGUE if not metric.collected}
        for metric, sets in _closed_sets(sorted(self._models), sorted(self._methods)).items():
            for values in sets:
                self._instruments[metric].labels(*values)

    def counter(self, metric: Metric, *values: str) -> Counter:
        """Returns the counter of a metric for its label values, in the catalogue's order; TypeError if it is none."""
        return self._child(metric, values, Counter)

    def gauge(self, metric: Metric, *values: str) -> Gauge:
        """Returns the gauge of a metric for its label values; TypeError if it is none."""
        return self._child(metric, values, Gauge)

    def histogram(self, metric: Metric, *values: str) -> Histogram:
        """Returns the histogram of a metric for its label values; TypeError if it is none."""
        return self._child(metric, values, Histogram)

    def model(self, name: str) -> str:
        """Returns the `model` label of a name that may come from a caller."""
        return name if name in self._models else OTHER_MODEL

    def rpc(self, grpc_type: str, service: str, method: str) -> tuple[str, str, str]:
        """Returns the labels of an RPC that may come from a caller."""
        known = (grpc_type, service, method)
        return known if known in self._methods else _OTHER_RPC

    def describe_model(
        self, model: str, *, revision: str, dtype: str, residency: str, load_seconds: Mapping[Stage, float]
    ) -> None:
        """Records what was loaded and how long it took, for the step stages that are there."""
        self.gauge(MODEL_INFO, self.model(model), revision, dtype, residency).set(1)
        for stage, seconds in load_seconds.items():
            self.gauge(MODEL_LOADED, self.model(model), stage).set(1)
            self.gauge(MODEL_LOAD_SECONDS, self.model(model), stage).set(seconds)

    def describe_build(self, version: str) -> None:
        """Records the server's version."""
        self.gauge(BUILD_INFO, version).set(1)

    def set_draining(self, draining: bool) -> None:
        """Records whether the server is shutting down."""
        self.gauge(DRAINING).set(int(draining))

    def count_gpu_error(self, call: str, error: str) -> None:
        """Counts a GPU reading that failed; for the collectors."""
        self.counter(GPU_COLLECTOR_ERRORS, call, error).inc()

    def write_stalled(self, seconds: float) -> None:
        """Records that a message waited for a slow reader."""
        self.histogram(WRITE_STALL).observe(seconds)

    def _child(self, metric: Metric, values: tuple[str, ...], kind: type[_Instrument]) -> _Instrument:
        instrument = self._instruments[metric]
        child = instrument.labels(*values) if metric.labels else instrument
        if not isinstance(child, kind):
            raise TypeError(f"{metric.name} is a {metric.kind}")
        return child


_OTHER_RPC = ("bidi_stream", OTHER_METHOD, OTHER_METHOD)


def _instrument(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    """Creates one instrument."""
    match metric.kind:
        case Kind.COUNTER:
            return Counter(metric.name, metric.help, metric.labels, registry=registry)
        case Kind.GAUGE:
            return Gauge(metric.name, metric.help, metric.labels, registry=registry)
        case Kind.HISTOGRAM:
            return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)


def _closed_sets(
    models: Sequence[str], methods: Sequence[tuple[str, str, str]]
) -> Mapping[Metric, Iterable[tuple[str, ...]]]:
    """Returns the label values of every series that exists from the start."""
    rpcs = (*methods, _OTHER_RPC)
    one_model = tuple((model,) for model in models)
    step_stages = tuple(product(models, STEP_STAGES))
    stages = tuple((stage,) for stage in Stage)
    sets: dict[Metric, Iterable[tuple[str, ...]]] = {
        RPC_HANDLED: ((*rpc, code) for rpc, code in product(rpcs, RPC_CODES.values())),
        REQUEST_DURATION: product((*models, OTHER_MODEL), Outcome),
        STAGE_DURATION: product(models, Stage, STAGE_OUTCOMES),
        BATCH_ROWS: ((stage,) for stage in STEP_STAGES),
        QUEUE_WAIT: ((priority,) for priority in Priority),
        REJECTED: ((reason,) for reason in RejectReason),
        FALLBACKS: ((*pair, reason) for pair, reason in product(FALLBACK_STAGES, FallbackReason)),
        WASTED: ((reason,) for reason in WASTE_REASONS),
        GPU_COLLECTOR_ERRORS: product(GPU_CALLS, GPU_ERRORS),
    }
    sets |= dict.fromkeys((RPC_STARTED, RPC_RECEIVED, RPC_SENT, RPC_SECONDS), rpcs)
    sets |= dict.fromkeys((FIRST_PROGRESS, IN_FLIGHT, QUEUED, QUEUE_CAPACITY), one_model)
    sets |= dict.fromkeys((STEP_DURATION, STAGE_STEPS, MODEL_LOADED, MODEL_LOAD_SECONDS), step_stages)
    sets |= dict.fromkeys((CANCELLED, CANCEL_LATENCY), stages)
    sets |= dict.fromkeys((IMAGES, IMAGE_BYTES), tuple(product(models, IMAGE_FORMATS)))
    return sets
