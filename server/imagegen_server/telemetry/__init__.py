"""Metrics, structured logs and GPU readings. The engine and the edge are listened to by shape, never imported."""

__all__ = [
    "CATALOGUE",
    "AllocatorCollector",
    "CertificateCollector",
    "EdgeListener",
    "EngineEvents",
    "FanOut",
    "GpuCollector",
    "GpuLibrary",
    "LogObserver",
    "Metrics",
    "MetricsObserver",
    "MetricsServer",
    "Nvml",
    "RpcFanOut",
    "RpcMetrics",
    "SimulatedGpu",
    "StoreListener",
    "Traces",
    "Untraced",
    "adopt_libraries",
    "configure",
    "open_export",
    "parse_gpu_script",
]

from imagegen_server.telemetry.allocator import AllocatorCollector
from imagegen_server.telemetry.certificate import CertificateCollector
from imagegen_server.telemetry.engine_observer import MetricsObserver
from imagegen_server.telemetry.events import EngineEvents, FanOut
from imagegen_server.telemetry.export import open_export
from imagegen_server.telemetry.gpu import GpuCollector
from imagegen_server.telemetry.gpu_library import GpuLibrary
from imagegen_server.telemetry.gpu_script import parse_gpu_script
from imagegen_server.telemetry.http import MetricsServer
from imagegen_server.telemetry.instruments import Metrics
from imagegen_server.telemetry.logs import LogObserver, adopt_libraries, configure
from imagegen_server.telemetry.metrics import CATALOGUE
from imagegen_server.telemetry.nvml import Nvml
from imagegen_server.telemetry.rpc_observer import EdgeListener, RpcFanOut, RpcMetrics
from imagegen_server.telemetry.simulated_gpu import SimulatedGpu
from imagegen_server.telemetry.store_observer import StoreListener
from imagegen_server.telemetry.traces import Traces, Untraced
