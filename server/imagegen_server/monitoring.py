"""Metrics with their port, logs and traces, put together from the settings: a part of the composition root."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from imagegen_server import api, models, telemetry
from imagegen_server.authentication import QuotaEvents
from imagegen_server.core import STEP_STAGES, DeviceInfo, EngineObserver, LoadedModel, Stage
from imagegen_server.errors import StartupError
from imagegen_server.process import VERSION, Process
from imagegen_server.settings import Settings

if TYPE_CHECKING:
    from imagegen_server.telemetry.otlp import OtlpExport


class Telemetry:
    """Metrics with their port, logs, and traces."""

    def __init__(self, settings: Settings, process: Process, quotas: api.Quotas) -> None:
        """Binds the metrics port and begins to send spans. Raises StartupError for what cannot be done."""
        disable_created_metrics()  # a series for each counter and histogram, which nothing queries
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        methods = [(m.type, m.service, m.method) for m in api.served_methods()]
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger("imagegen")
        self.metrics = telemetry.Metrics(self.registry, models=[settings.model], methods=methods)
        self.metrics.describe_build(VERSION)
        self._export = _span_export(settings, self.log)
        self._listen(settings, quotas)
        self.store = telemetry.StoreListener(self.metrics, self.log)
        script = settings.gpu_script
        gpus = telemetry.SimulatedGpu(telemetry.parse_gpu_script(script)) if script else None
        self._simulated = gpus is not None
        self._gpu = telemetry.GpuCollector(
            gpus or telemetry.Nvml(), self.metrics.count_gpu_error, warn=self.log.warning
        )
        self.registry.register(self._gpu)
        allocator = gpus.allocator_stats if gpus else models.allocator_stats
        self.registry.register(telemetry.AllocatorCollector(allocator, self.metrics.count_gpu_error))
        self._server = _bind(settings, self.registry, process)

    def _listen(self, settings: Settings, quotas: api.Quotas) -> None:
        """Makes what hears of generations, of calls, and of what only the edge sees."""
        tracing = None if self._export is None else self._export.listener
        log = telemetry.LogObserver(self.log, log_prompts=settings.log_prompts, traces=tracing)
        listeners = (telemetry.MetricsObserver(self.metrics, settings.model, tracing), log, QuotaEvents(quotas))
        self.engine = telemetry.fan_out(
            EngineObserver,
            listeners if tracing is None else (*listeners, tracing),  # last: the others ask it for trace ids
            on_error=log.listener_failed,
        )
        calls = telemetry.RpcMetrics(self.metrics)
        self.rpc: api.RpcObserver = calls
        if tracing is not None:
            self.rpc = telemetry.fan_out(telemetry.RpcEvents, (tracing, calls), on_error=log.listener_failed)
        self.edge = telemetry.EdgeListener(self.metrics, self.engine, log)
        self.device_lost = log.device_lost

    @property
    def port(self) -> int | None:
        """The metrics port; None if there is none."""
        return None if self._server is None else self._server.port

    def serve_on(self, device: DeviceInfo) -> None:
        """Begins to read that device's GPU and no other one, or all GPUs if it is none; simulated ones are read."""
        if not self._simulated:
            self._gpu.start(device.uuid or None)

    def describe(self, model: LoadedModel, *, seconds: float) -> None:
        """Shows in the metrics what was loaded, in how many seconds."""
        plan = model.memory_plan
        stages = STEP_STAGES if model.refiner_loaded else (Stage.BASE,)
        self.metrics.describe_model(
            model.profile.name,
            revision=model.profile.base_source.partition("@")[2],
            dtype=model.precision.value,
            residency=plan.residency.value,
            load_seconds=dict.fromkeys(stages, seconds),
            budget_bytes=plan.available_bytes,
            planned_bytes=plan.weights_bytes + plan.working_bytes,
        )

    def energy(self) -> float | None:
        """Returns the joules that the GPU has used since some beginning; never waits. For one thread.

        None without a GPU, before it is known, and while it cannot be read.
        """
        return self._gpu.energy_joules()

    def start(self) -> None:
        """Begins to answer scrapes, and to read simulated GPUs, of which the first stands for any device."""
        if self._simulated:
            self._gpu.start("")
        if self._server is not None:
            self._server.start()

    def stop(self) -> None:
        """Ends both, and delivers the last spans."""
        if self._export is not None:
            self._export.stop()
        self._gpu.stop()
        if self._server is not None:
            self._server.stop()


def _span_export(settings: Settings, log: structlog.stdlib.BoundLogger) -> OtlpExport | None:
    """Begins to send spans if that is asked for. Raises StartupError if it cannot be done."""
    if settings.tracing == "none":
        return None
    return telemetry.open_export(
        endpoint=settings.tracing_endpoint,
        sample_ratio=settings.tracing_sample_ratio,
        version=VERSION,
        warn=log.warning,
    )


def _bind(settings: Settings, registry: CollectorRegistry, process: Process) -> telemetry.MetricsServer | None:
    """Returns the metrics' port, bound and not served yet. Raises StartupError if it cannot be bound."""
    if settings.metrics_port is None:
        return None
    try:
        return telemetry.MetricsServer(
            registry,
            lambda: process.state().value,
            host=settings.metrics_host,
            port=settings.metrics_port,
            token_file=settings.metrics_token_file,
        )
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise StartupError(f"cannot serve metrics on {where}: {error.strerror}{_who_has_it(error)}") from error


def _who_has_it(error: OSError) -> str:
    """Returns what to do about a port that is taken, most likely by a server that runs already; else nothing."""
    if error.errno != errno.EADDRINUSE:
        return ""
    return "; is another imagegen-server running? --metrics-port and --port choose others"
