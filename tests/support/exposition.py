"""Hand-made answers of `/metrics`: what a test says, in Prometheus' text form, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping


class Exposition:
    """A text under construction; every method returns it, for more."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def gauge(self, name: str, value: float, /, **labels: str) -> Exposition:
        """Adds a series of a gauge."""
        return self._add(name, "gauge", [_line(name, labels, value)])

    def counter(self, name: str, value: float, /, **labels: str) -> Exposition:
        """Adds a series of a counter; the name ends with _total."""
        return self._add(name, "counter", [_line(name, labels, value)])

    def histogram(self, name: str, observed: Mapping[float, float], total: float, /, **labels: str) -> Exposition:
        """Adds a series of a histogram.

        Args:
            name: without _bucket.
            observed: observations that fell into each bucket, by upper bound; what lies above all is under math.inf.
            total: sum of the observations.
            labels: of the series.
        """
        lines, count = [], 0.0
        for bound, more in sorted({math.inf: 0.0, **observed}.items()):
            count += more
            le = "+Inf" if math.isinf(bound) else repr(float(bound))
            lines.append(_line(f"{name}_bucket", {**labels, "le": le}, count))
        lines += [_line(f"{name}_count", labels, count), _line(f"{name}_sum", labels, total)]
        return self._add(name, "histogram", lines)

    def text(self) -> str:
        """Returns it."""
        return "".join("\n".join(lines) + "\n" for lines in self._families.values())

    def _add(self, name: str, kind: str, lines: list[str]) -> Exposition:
        self._families.setdefault(name, [f"# HELP {name} Something.", f"# TYPE {name} {kind}"]).extend(lines)
        return self


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{text}}} {float(value)}" if text else f"{name} {float(value)}"


def busy_server(factor: float = 1.0) -> Exposition:
    """Returns what a busy server with one GPU says; its counters are multiplied by `factor`."""
    made = Exposition()
    made.gauge("imagegen_serving", 1).gauge("imagegen_draining", 0)
    made.gauge("imagegen_degraded", 0, feature="refiner").gauge("imagegen_degraded", 1, feature="batch_rows")
    made.gauge("imagegen_model_info", 1, model="sdxl", revision="4621659840", dtype="fp16", residency="both")
    made.gauge("imagegen_build_info", 1, version="0.1.0")
    made.gauge("imagegen_requests_in_flight", 6, model="sdxl").gauge("imagegen_requests_queued", 2, model="sdxl")
    made.gauge("imagegen_queue_capacity", 64, model="sdxl")
    made.gauge("imagegen_memory_budget_bytes", 22e9, model="sdxl")
    made.gauge("imagegen_memory_planned_bytes", 17e9, model="sdxl")
    _busy_counters(made, factor)
    _busy_histograms(made, factor)
    _busy_gpu(made, factor)
    return made


def _busy_counters(made: Exposition, factor: float) -> None:
    for reason, count in {"oom": 3, "nan": 1, "error": 0, "deadline": 2, "not_loaded": 0}.items():
        made.counter("imagegen_fallbacks_total", count * factor, **{"from": "refiner", "to": "base", "reason": reason})
    for reason, count in {"queue_full": 7, "deadline": 1, "draining": 0, "invalid": 4}.items():
        made.counter("imagegen_rejected_total", count * factor, reason=reason)
    for stage, count in {"queued": 1, "base": 5, "send": 0}.items():
        made.counter("imagegen_cancelled_total", count * factor, stage=stage)
    for reason, seconds in {"cancelled": 2.5, "deadline": 0.5, "error": 0.0}.items():
        made.counter("imagegen_wasted_device_seconds_total", seconds * factor, reason=reason)
    for stage, seconds in {"text_encode": 1.0, "base": 24.0, "refiner": 8.0, "vae_decode": 3.0}.items():
        made.counter("imagegen_device_seconds_total", seconds * factor, model="sdxl", stage=stage)
    for stage, steps in {"base": 1500, "refiner": 420}.items():
        made.counter("imagegen_stage_steps_total", steps * factor, model="sdxl", stage=stage)
    made.counter("imagegen_images_total", 40 * factor, model="sdxl", format="png")
    made.counter("imagegen_auth_failures_total", 0, reason="missing")
    for code, count in {"OK": 46, "Canceled": 6, "ResourceExhausted": 8, "InvalidArgument": 4, "Internal": 1}.items():
        method = {"grpc_type": "server_stream", "grpc_service": "imagegen.v1.ImageGen", "grpc_method": "GenerateImage"}
        made.counter("grpc_server_handled_total", count * factor, grpc_code=code, **method)


def _busy_histograms(made: Exposition, factor: float) -> None:
    outcomes = {"ok": 36, "degraded": 6, "cancelled": 6, "deadline": 2, "rejected": 8, "invalid": 4, "error": 1}
    for outcome, count in outcomes.items():
        made.histogram("imagegen_request_duration_seconds", {5: count * factor}, 0, model="sdxl", outcome=outcome)
    for stage in ("queued", "text_encode", "base", "refiner", "vae_decode", "image_encode", "send"):
        seen = {0.5: 10 * factor, 2: 20 * factor, 5: 6 * factor}
        made.histogram("imagegen_stage_duration_seconds", seen, 40, model="sdxl", stage=stage, outcome="ok")
        made.histogram("imagegen_stage_duration_seconds", {5: factor}, 4, model="sdxl", stage=stage, outcome="error")
    for stage in ("base", "refiner"):
        seen = {0.05: 100 * factor, 0.1: 300 * factor}
        made.histogram("imagegen_step_duration_seconds", seen, 30, model="sdxl", stage=stage)
        made.histogram("imagegen_batch_rows", {2: 100 * factor, 8: 100 * factor}, 1000 * factor, stage=stage)
    for priority in ("interactive", "batch"):
        seen = {0.1: 30 * factor, 2.5: 12 * factor, math.inf: factor}
        made.histogram("imagegen_queue_wait_seconds", seen, 40, priority=priority)
    made.histogram("imagegen_time_to_first_progress_seconds", {0.5: 42 * factor}, 12, model="sdxl")
    made.histogram("imagegen_cancel_latency_seconds", {0.1: 6 * factor}, 0.3, stage="base")


def _busy_gpu(made: Exposition, factor: float) -> None:
    name = "NVIDIA GeForce RTX 4090"
    made.gauge("imagegen_gpu_info", 1, gpu="0", uuid="GPU-1", name=name, driver="550.54", mig="unsupported")
    readings = {
        "memory_used_bytes": 19.4e9,
        "memory_process_bytes": 18.1e9,
        "memory_total_bytes": 24.0e9,
        "utilization_ratio": 0.93,
        "memory_utilization_ratio": 0.41,
        "temperature_celsius": 81,
        "temperature_limit_celsius": 83,
        "power_watts": 352,
        "power_limit_watts": 450,
        "health": 1,
    }
    for reading, value in readings.items():
        made.gauge(f"imagegen_gpu_{reading}", value, gpu="0")
    made.gauge("imagegen_gpu_clock_hertz", 2.52e9, gpu="0", clock="sm")
    made.gauge("imagegen_gpu_collector_up", 1)
    made.counter("imagegen_gpu_energy_joules_total", 40_000 * factor, gpu="0")
    made.counter("imagegen_gpu_throttle_seconds_total", 6 * factor, gpu="0", reason="thermal")
    made.counter("imagegen_gpu_throttle_seconds_total", 0, gpu="0", reason="power")
    for kind, count in {"corrected": 2, "uncorrected": 0}.items():
        made.counter("imagegen_gpu_ecc_errors_total", count, gpu="0", type=kind)
    made.counter("imagegen_gpu_xid_errors_total", 0, gpu="0", xid="79")
    made.counter("imagegen_gpu_collector_errors_total", 0, call="ecc", error="not_supported")
    for reading, value in {
        "allocated": 12.1e9,
        "reserved": 17.6e9,
        "allocated_peak": 16.2e9,
        "inactive_split": 4e8,
    }.items():
        made.gauge(f"imagegen_torch_{reading}_bytes", value)
    made.counter("imagegen_torch_alloc_retries_total", 1).counter("imagegen_torch_ooms_total", 3)
