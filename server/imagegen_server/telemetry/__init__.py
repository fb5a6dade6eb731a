"""Metrics, structured logs and GPU readings. The engine and the edge are listened to, never imported."""

__all__ = [
    "CATALOGUE",
    "AllocatorCollector",
    "CertificateCollector",
    "EdgeListener",
    "GpuCollector",
    "GpuLibrary",
    "LogObserver",
    "Metrics",
    "MetricsObserver",
    "MetricsServer",
    "Nvml",
    "RpcEvents",
    "RpcMetrics",
    "SimulatedGpu",
    "StoreListener",
    "Traces",
    "Untraced",
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
from imagegen_server.telemetry.gpu_library import GpuLibrary
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
from imagegen_server.telemetry.traces import Traces, Untraced
