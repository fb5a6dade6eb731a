"""Metrics, structured logs, traces and GPU readings. The engine and the edge are listened to, never imported.

metrics            the catalogue; `closed_sets` has the values of its labels, `reference` writes docs/metrics.md of both
  instruments      the catalogue in a registry; `exposition` writes it, `http` serves that
*_observer         what the engine, the edge and the store tell, as metrics and as lines of the log; `fan` tells several
logs               the form of all lines; `sparing` and `undecoded` bound those that callers can cause
tracing            the same as spans (`spans`), which `otlp` sends; `traces` is what metrics and log know of them
gpu                shows the GPUs in scrapes
  gpu_poller       reads them: each by a `gpu_reader`, with what is wrong in `gpu_faults` and its joules in `energy`
    gpu_library    what a GPU can be asked: `nvml` asks, `simulated_gpu` plays a `gpu_script`
allocator          shows torch's memory, `certificate` the certificate's end
"""

__all__ = [
    "CATALOGUE",
    "AllocatorCollector",
    "CertificateCollector",
    "EdgeListener",
    "GpuCollector",
    "LogObserver",
    "Metrics",
    "MetricsObserver",
    "MetricsServer",
    "Nvml",
    "RpcEvents",
    "RpcMetrics",
    "SimulatedGpu",
    "StoreListener",
    "adopt_libraries",
    "configure",
    "fan_out",
    "log_stopped",
    "open_export",
    "parse_gpu_script",
]

from imagegen_server.telemetry.allocator import AllocatorCollector
from imagegen_server.telemetry.certificate import CertificateCollector
from imagegen_server.telemetry.engine_observer import MetricsObserver
from imagegen_server.telemetry.export import open_export
from imagegen_server.telemetry.fan import fan_out
from imagegen_server.telemetry.gpu import GpuCollector
from imagegen_server.telemetry.gpu_script import parse_gpu_script
from imagegen_server.telemetry.http import MetricsServer
from imagegen_server.telemetry.instruments import Metrics
from imagegen_server.telemetry.log_observer import LogObserver
from imagegen_server.telemetry.logs import adopt_libraries, configure, log_stopped
from imagegen_server.telemetry.metrics import CATALOGUE
from imagegen_server.telemetry.nvml import Nvml
from imagegen_server.telemetry.rpc_observer import EdgeListener, RpcEvents, RpcMetrics
from imagegen_server.telemetry.simulated_gpu import SimulatedGpu
from imagegen_server.telemetry.store_observer import StoreListener
