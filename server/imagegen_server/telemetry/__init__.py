"""Metrics, structured logs and GPU readings. The engine and the edge are listened to by shape, never imported."""

__all__ = [
    "CATALOGUE",
    "AllocatorCollector",
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
    "RpcMetrics",
    "adopt_libraries",
    "configure",
]

from imagegen_server.telemetry.engine_observer import MetricsObserver
from imagegen_server.telemetry.events import EngineEvents, FanOut
from imagegen_server.telemetry.gpu import AllocatorCollector, GpuCollector, GpuLibrary
from imagegen_server.telemetry.http import MetricsServer
from imagegen_server.telemetry.instruments import Metrics
from imagegen_server.telemetry.logs import LogObserver, adopt_libraries, configure
from imagegen_server.telemetry.metrics import CATALOGUE
from imagegen_server.telemetry.nvml import Nvml
from imagegen_server.telemetry.rpc_observer import EdgeListener, RpcMetrics
