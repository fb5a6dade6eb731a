"""The metric catalogue as data.

Base units only. Every label value comes from one of `closed_sets`, which are known at the start. So every series exists
from the start, at 0, except what a device may not support: a collector reports that, or leaves it out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60, 120)
_R = (*_S, 300)
_Q = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_T = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_RPC = (*_Q, 300)
_JOULES = (0.1, 1, 10, 50, 100, 250, 500, 1000, 2000, 3000, 5000, 7500, 10_000, 20_000, 50_000, 100_000)
_MEMORY = tuple(float(gib * 2**30) for gib in (0.25, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 144))
"""256 MiB to 144 GiB."""
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
TEXTS_ENCODED = _counter(
    "imagegen_texts_encoded_total",
    "Prompts turned into embeddings: encoded, or reused from an earlier time.",
    "model",
    "source",
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
DELIVERING = _gauge(
    "imagegen_requests_delivering",
    "Generations in flight that the device is done with: their images are being encoded or read.",
    "model",
)
QUEUE_CAPACITY = _gauge(
    "imagegen_queue_capacity", "Most generations that may wait; 0 before the model is loaded.", "model"
)
REJECTED = _counter("imagegen_rejected_total", "Generations, and calls to read one, refused before any work.", "reason")
CANCELLED = _counter(
    "imagegen_cancelled_total", "Generations stopped by their caller, by the stage they were in.", "stage"
)
CANCEL_LATENCY = _histogram("imagegen_cancel_latency_seconds", _Q, "From a cancel's arrival to the stop.", "stage")
FALLBACKS = _counter("imagegen_fallbacks_total", "Images made by departing from the plan.", "from", "to", "reason")
WASTED = _counter("imagegen_wasted_device_seconds_total", "Device time whose result nobody got.", "reason")
DEVICE_SECONDS = _counter(
    "imagegen_device_seconds_total", "Device time of turns, text encoding and decoding included.", "model", "stage"
)
GENERATION_DEVICE_SECONDS = _histogram(
    "imagegen_generation_device_seconds",
    _R,
    "Device time of a generation that delivered, shared out by rows.",
    "model",
)
GENERATION_ENERGY = _histogram(
    "imagegen_generation_energy_joules",
    _JOULES,
    "The GPU's energy in the turns of a generation that delivered, shared out by rows.",
    "model",
)
GENERATION_PEAK_MEMORY = _histogram(
    "imagegen_generation_peak_memory_bytes",
    _MEMORY,
    "Most memory in tensors while a generation that delivered was on the device; not what CUDA graphs replay in.",
    "model",
)
IMAGES = _counter("imagegen_images_total", "Image files made.", "model", "format")
IMAGE_BYTES = _histogram("imagegen_image_bytes", _BYTES, "Size of an image file.", "model", "format")
WRITE_STALL = _histogram("imagegen_stream_write_stall_seconds", _Q, "Time that one message waited for a slow reader.")
STORE_WRITES_TOTAL = _counter(
    "imagegen_store_writes_total", "Images that were to be kept, by how that ended.", "outcome"
)
STORE_WRITE_SECONDS = _histogram(
    "imagegen_store_write_seconds", (*_T, 5, 10), "From an image's being made to its being kept."
)
STORE_READS_TOTAL = _counter("imagegen_store_reads_total", "Images asked for over HTTP.", "outcome")
STORE_IMAGES = _gauge("imagegen_store_images", "Images that are kept, as last seen by this server.")
STORE_BYTES = _gauge("imagegen_store_bytes", "Bytes of images and parameters that are kept, as last seen.")
STORE_LIMIT = _gauge("imagegen_store_limit_bytes", "Most bytes that may be kept; 0 without a limit or a store.")
STORE_REMOVED = _counter("imagegen_store_removed_total", "Images removed by this server's retention.", "reason")
STORE_SWEEP_FAILURES = _counter("imagegen_store_sweep_failures_total", "Times that the store could not be swept.")
STORE_SWEEP_FAILING = _gauge("imagegen_store_sweep_failing", "1 if the store could not be swept the last time.")
MODEL_LOADED = _gauge("imagegen_model_loaded", "1 if the stage's model is loaded.", "model", "stage")
MODEL_LOAD_SECONDS = _gauge(
    "imagegen_model_load_seconds",
    "How long loading and warming up took: the stages do both together, and each has the same value.",
    "model",
    "stage",
)
MODEL_INFO = _gauge(
    "imagegen_model_info", "1; labels describe the loaded model.", "model", "revision", "dtype", "residency"
)
MEMORY_BUDGET = _gauge("imagegen_memory_budget_bytes", "Device memory that the memory plan may use.", "model")
MEMORY_PLANNED = _gauge(
    "imagegen_memory_planned_bytes", "Weights and working memory that the memory plan predicts.", "model"
)
BUILD_INFO = _gauge("imagegen_build_info", "1; the label is the server's version.", "version")
DRAINING = _gauge("imagegen_draining", "1 while the server shuts down and refuses generations.")
SERVING = _gauge("imagegen_serving", "1 while generations are taken: loaded, warm and not draining.")
DEGRADED = _gauge("imagegen_degraded", "1 while the server works without the feature.", "feature")
ADAPTATIONS = _counter("imagegen_adaptations_total", "Times that the server gave up more of a feature.", "feature")
AUTH_FAILURES_TOTAL = _counter("imagegen_auth_failures_total", "Calls whose credentials were refused.", "reason")
CERTIFICATE_EXPIRY = _gauge(
    "imagegen_tls_cert_expiry_timestamp_seconds",
    "When the server's certificate ends, in Unix time; absent without TLS.",
    collected=True,
)

GPU_INFO = _gauge(
    "imagegen_gpu_info", "1; labels describe the GPU.", "gpu", "uuid", "name", "driver", "mig", collected=True
)
GPU_MEMORY_USED = _gauge(
    "imagegen_gpu_memory_used_bytes", "Device memory in use, by all processes.", "gpu", collected=True
)
GPU_MEMORY_TOTAL = _gauge("imagegen_gpu_memory_total_bytes", "Device memory.", "gpu", collected=True)
GPU_MEMORY_PROCESS = _gauge(
    "imagegen_gpu_memory_process_bytes", "Device memory in use by this process.", "gpu", collected=True
)
GPU_UTILIZATION = _gauge(
    "imagegen_gpu_utilization_ratio", "Share of the last sample period with a kernel running.", "gpu", collected=True
)
GPU_MEMORY_UTILIZATION = _gauge(
    "imagegen_gpu_memory_utilization_ratio",
    "Share of the last sample period in which device memory was read or written.",
    "gpu",
    collected=True,
)
GPU_TEMPERATURE = _gauge("imagegen_gpu_temperature_celsius", "Temperature of the GPU.", "gpu", collected=True)
GPU_TEMPERATURE_LIMIT = _gauge(
    "imagegen_gpu_temperature_limit_celsius", "Temperature at which clocks are held down.", "gpu", collected=True
)
GPU_POWER = _gauge("imagegen_gpu_power_watts", "Power drawn by the board.", "gpu", collected=True)
GPU_POWER_LIMIT = _gauge("imagegen_gpu_power_limit_watts", "Power limit that is enforced.", "gpu", collected=True)
GPU_CLOCK = _gauge("imagegen_gpu_clock_hertz", "Current clock.", "gpu", "clock", collected=True)
GPU_ENERGY = _counter("imagegen_gpu_energy_joules_total", "Energy used since the start.", "gpu", collected=True)
GPU_THROTTLE = _counter(
    "imagegen_gpu_throttle_seconds_total",
    "Time since the start for which clocks were held down.",
    "gpu",
    "reason",
    collected=True,
)
GPU_ECC_ERRORS = _counter(
    "imagegen_gpu_ecc_errors_total", "Memory errors since the start.", "gpu", "type", collected=True
)
GPU_XID_ERRORS = _counter(
    "imagegen_gpu_xid_errors_total", "Errors that the driver reported since the start.", "gpu", "xid", collected=True
)
GPU_REMAP_PENDING = _gauge(
    "imagegen_gpu_remap_pending",
    "1 while a broken row of memory waits for a reset, which replaces it by a spare one.",
    "gpu",
    collected=True,
)
GPU_HEALTH = _gauge(
    "imagegen_gpu_health",
    "1 while the GPU works; 0 once it is lost or has an error that only a reset or a repair ends.",
    "gpu",
    collected=True,
)
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

PROCESS_START = _gauge("process_start_time_seconds", "When the process started, in Unix time.", collected=True)
PROCESS_CPU = _counter(
    "process_cpu_seconds_total", "Time of the host's processors, in user and system mode.", collected=True
)
PROCESS_RESIDENT = _gauge("process_resident_memory_bytes", "The host's memory in use.", collected=True)
PROCESS_VIRTUAL = _gauge("process_virtual_memory_bytes", "Address space: with CUDA, mostly unused.", collected=True)
PROCESS_FDS = _gauge("process_open_fds", "Open file descriptors: connections, most of all.", collected=True)
PROCESS_FDS_LIMIT = _gauge("process_max_fds", "Most file descriptors that may be open.", collected=True)

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""Every metric that exists, in the order above."""
