"""The values that the labels of metrics take: closed sets, so that no caller can mint a series.

A model that is not among the configured ones becomes `other`, an unknown RPC `_OTHER`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from imagegen_server.core import Feature, KeepFailure, Outcome, Stage
from imagegen_server.errors import CredentialsReason

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
STAGE_OUTCOMES = (Outcome.OK, Outcome.CANCELLED, Outcome.DEADLINE, Outcome.ERROR)
DEVICE_STAGES = (Stage.TEXT_ENCODE, Stage.BASE, Stage.REFINER, Stage.VAE_DECODE)
WASTE_REASONS = (Outcome.CANCELLED, Outcome.DEADLINE, Outcome.ERROR)
FALLBACK_STAGES = ((Stage.REFINER, Stage.BASE), (Stage.VAE_DECODE, Stage.VAE_DECODE))
"""From and to; a decode that becomes a decode in tiles stays in its stage."""
DEGRADED_FEATURES: Mapping[Feature, str] = {
    Feature.REFINER: "it is not loaded, refined images fall back to the base",
    Feature.BATCH_ROWS: "batches are smaller, as larger ones did not fit into the device's memory",
    Feature.CUDA_GRAPHS: "steps are launched kernel by kernel, as graphs were not captured or their memory was needed",
    Feature.TORCHSCRIPT: "a CPU's UNets are called from Python, as they were not traced or a trace gave other bits",
    Feature.COMPILE: "the tuning's compiled code is not used, as it could not be made",
    Feature.FULL_DECODE: "images of some size are decoded in tiles, as whole ones did not fit into the device's memory",
    Feature.RESIDENCY: "parts of the model take turns on the device, as the memory was needed",
}
"""Values of the label feature, and what it is to be without each, for the documentation and the dashboards."""
TEXT_SOURCES = ("encoded", "reused")
STORE_WRITES = ("ok", *KeepFailure)
STORE_READS = ("ok", "not_modified", "not_found", "damaged", "failed")
STORE_REMOVALS = ("age", "bytes")
AUTH_FAILURES = (*CredentialsReason, "forbidden")
GPU_CALLS = (
    "init",
    "devices",
    "memory",
    "processes",
    "utilization",
    "temperature",
    "power",
    "power_limit",
    "clock",
    "energy",
    "throttle",
    "ecc",
    "xid",
    "allocator",
)
GPU_ERRORS = ("not_supported", "no_permission", "lost", "timeout", "unknown")
GPU_CLOCKS = ("sm", "memory")
THROTTLE_REASONS = ("power", "thermal", "sync_boost", "board_limit", "low_utilization", "reliability")
"""NVML's performance policies (nvmlPerfPolicyType_t) that count the time for which they held clocks down."""
ECC_TYPES = ("corrected", "uncorrected")
XIDS = ("13", "31", "32", "43", "45", "48", "61", "62", "63", "64", "69", "74", "79", "92", "94", "95", "119", "120")
"""The driver's errors that are told apart (NVIDIA, "XID Errors"); any other counts as `other`."""
OTHER_XID: Final = "other"
