"""The composition root: the only file that imports every layer, and the life of the process from start to end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics

from imagegen_server import api, models, output, telemetry
from imagegen_server.authentication import QuotaEvents, authentication, tenant_limits
from imagegen_server.core import (
    DeviceInfo,
    LoadedModel,
    Precision,
    Residency,
    Stage,
)
from imagegen_server.device_thread import DeviceThread
from imagegen_server.engine import Engine, EngineSettings, Observer
from imagegen_server.engine.runner import Runner
from imagegen_server.engine.settings import SWAP_SECONDS
from imagegen_server.errors import StageError, StartupError, Unavailable
from imagegen_server.process import RETRY_AFTER, VERSION, Process
from imagegen_server.results import Results
from imagegen_server.settings import Settings, unknown_variables
from imagegen_server.warm_up import warm_up_request

if TYPE_CHECKING:
    from imagegen_server.telemetry.otlp import OtlpExport

CLOSE_GRACE: Final = 2.0
"""Seconds that calls get to read their status once everything has ended."""


class Telemetry:
    """Metrics with their port, logs, and traces."""

    def __init__(self, settings: Settings, process: Process, quotas: api.Quotas) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each counter and histogram, which nothing queries
        self.registry = registry = CollectorRegistry()
        methods = [(m.type, m.service, m.method) for m in api.served_methods()]
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger("imagegen")
        self.metrics = telemetry.Metrics(registry, models=[settings.model], methods=methods)
        self.metrics.describe_build(VERSION)
        self._export = _span_export(settings, self.log)
        tracing = None if self._export is None else self._export.listener
        log_observer = telemetry.LogObserver(self.log, log_prompts=settings.log_prompts, traces=tracing)
        listeners = (
            telemetry.MetricsObserver(self.metrics, settings.model, tracing),
            log_observer,
            QuotaEvents(quotas),
        )
        calls = telemetry.RpcMetrics(self.metrics)
        events = telemetry.FanOut(
            listeners if tracing is None else (*listeners, tracing),  # last: the others ask it for trace ids
            on_error=log_observer.listener_failed,
        )
        self.engine: Observer = events
        self.rpc: api.RpcObserver = (
            calls if tracing is None else telemetry.RpcFanOut((tracing, calls), on_error=log_observer.listener_failed)
        )
        self.edge = telemetry.EdgeListener(self.metrics, events, log_observer)
        self.store = telemetry.StoreListener(self.metrics, self.log)
        script = settings.gpu_script
        gpus = telemetry.SimulatedGpu(telemetry.parse_gpu_script(script)) if script else None
        self._simulated = gpus is not None
        self._gpu = telemetry.GpuCollector(gpus or telemetry.Nvml(), self.metrics.count_gpu_error)
        registry.register(self._gpu)
        allocator = gpus.allocator_stats if gpus else models.allocator_stats
        registry.register(telemetry.AllocatorCollector(allocator, self.metrics.count_gpu_error))
        self._server: telemetry.MetricsServer | None = None
        if settings.metrics_port is not None:
            try:
                self._server = telemetry.MetricsServer(
                    registry,
                    lambda: process.state().value,
                    host=settings.metrics_host,
                    port=settings.metrics_port,
                    token_file=settings.metrics_token_file,
                )
            except OSError as error:
                where = f"{settings.metrics_host}:{settings.metrics_port}"
                raise StartupError(f"cannot serve metrics on {where}: {error.strerror}") from error

    @property
    def port(self) -> int | None:
        """The metrics port; None if there is none."""
        return None if self._server is None else self._server.port

    def serve_on(self, device: DeviceInfo) -> None:
        """Lets `energy` tell that device's energy; a simulated GPU stands for any device."""
        if self._simulated or device.uuid:
            self._gpu.serve("" if self._simulated else device.uuid)

    def energy(self) -> float | None:
        """Returns the joules that the served GPU has used since some beginning; never waits. For one thread.

        None without a GPU, before it is known, and while it cannot be read.
        """
        return self._gpu.energy_joules()

    def start(self) -> None:
        """Begins to poll the GPU and to answer scrapes."""
        self._gpu.start()
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


async def serve(settings: Settings) -> int:
    """Runs the server until SIGTERM or SIGINT; returns the exit status: 0, or 1 if the device was lost.

    Raises StartupError if it cannot start.
    """
    process = Process(models.model_profiles())
    quotas = api.Quotas(tenant_limits(settings))
    watch = Telemetry(settings, process, quotas)
    if unknown := unknown_variables():
        watch.log.warning("variables that are no settings", names=unknown)
    tls = _tls(settings, watch)
    results = Results.open(settings, watch.store)
    asked_to_stop = _stop_on_signals(watch.log)

    # bind: health answers NOT_SERVING and generations are refused with UNAVAILABLE while models load
    server = await api.create_server(
        process,
        settings=_server_settings(settings),
        edge=_edge_settings(settings),
        rpc_observer=watch.rpc,
        edge_observer=watch.edge,
        tls=tls,
        auth=await authentication(settings, watch.edge, watch.log),
        quotas=quotas,
    )
    watch.start()
    results.start()
    await server.start()
    watch.log.info("loading", model=settings.model, port=server.port, metrics_port=watch.port)
    try:
        device = DeviceThread(lambda: _load(settings, watch, results), Engine.run_forever)
        device.start()
        await _first(device.loaded, asked_to_stop)
        if not device.loaded.done():
            return 0

        # serve
        engine = device.loaded.result()
        process.serve(engine, _with_limits(engine.loaded(), settings))
        await server.set_serving(True)
        watch.metrics.set_serving(True)
        ports = {
            "port": server.port,
            "metrics_port": watch.port,
            "health_port": server.health_port,
            "images_port": results.port,
        }
        _write_ports(settings.port_file, ports)
        watch.log.info("serving", model=settings.model, **ports, version=VERSION)
        await _first(asked_to_stop, device.ended)

        # drain: not serving first, so that balancers look elsewhere; then let what runs end
        lost = device.ended.done()
        process.drain()
        watch.metrics.set_draining(True)
        watch.metrics.set_serving(False)
        await server.set_serving(False)
        began = time.monotonic()
        await _drain(engine, settings.grace_period, watch)
        await server.read_out(max(began + settings.grace_period - time.monotonic(), 0))
        await asyncio.wait([device.ended], timeout=CLOSE_GRACE)
        return 1 if lost else 0
    finally:
        await server.stop(CLOSE_GRACE)
        results.stop()
        watch.stop()


def _tls(settings: Settings, watch: Telemetry) -> api.ServerTls | None:
    """Returns the server's certificate, whose end is shown then; raises StartupError if it cannot be used."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    tls = api.ServerTls(
        settings.tls_certificate,
        settings.tls_key,
        on_change=lambda what: watch.log.warning("tls certificate changed", result=what),
        client_ca=settings.tls_client_ca,
    )
    watch.registry.register(telemetry.CertificateCollector(tls.expiry))
    return tls


async def _first(*futures: asyncio.Future[Any]) -> None:
    """Returns once one of the futures is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _drain(engine: Engine, grace: float, watch: Telemetry) -> None:
    """Ends queued generations at once and running ones after `grace` seconds."""
    reason = Unavailable("DRAINING", "the server is shutting down", RETRY_AFTER)
    state = engine.queue_state()
    watch.log.info("draining", running=state.running, queued=state.queued, grace_seconds=grace)
    engine.drain(reason)
    idle = await asyncio.to_thread(engine.wait_idle, grace)
    if not idle:
        watch.log.warning("grace period over", running=engine.queue_state().running)
    engine.stop(reason)


def _load(settings: Settings, watch: Telemetry, results: Results) -> Engine:
    """Loads the model and warms it up. Runs on the device thread; raises StartupError if that cannot be done."""
    began = time.monotonic()
    runner: Runner = models.load_runner(settings.model, model_options(settings))
    model = runner.describe()
    watch.serve_on(model.device)
    profile = model.profile
    engine = Engine(
        runner=runner,
        encode=output.encode,
        encode_preview=output.encode_preview,
        observer=watch.engine,
        settings=_engine_settings(settings, model),
        energy=watch.energy,
        keep=results.keep,
    )
    watch.log.info("memory plan", explanation=model.memory_plan.explanation)
    try:
        engine.warm_up(warm_up_request(profile))
    except StageError as error:
        raise StartupError(f"the model is loaded but does not run: {error}") from error
    seconds = time.monotonic() - began
    stages = (Stage.BASE, Stage.REFINER) if model.refiner_loaded else (Stage.BASE,)
    watch.metrics.describe_model(
        profile.name,
        revision=profile.base_source.partition("@")[2],
        dtype=model.precision.value,
        residency=model.memory_plan.residency.value,
        load_seconds=dict.fromkeys(stages, seconds),
        budget_bytes=model.memory_plan.available_bytes,
        planned_bytes=model.memory_plan.weights_bytes + model.memory_plan.working_bytes,
    )
    telemetry.adopt_libraries(("diffusers", "transformers"), log_prompts=settings.log_prompts)
    return engine


def _with_limits(model: LoadedModel, settings: Settings) -> LoadedModel:
    """Returns the model with the limits that the operator set."""
    limits = settings.limits(model.profile.limits)
    return dataclasses.replace(model, profile=dataclasses.replace(model.profile, limits=limits))


def model_options(settings: Settings) -> models.ModelOptions:
    """Returns what the operator chose about the model."""
    return models.ModelOptions(
        device=settings.device,
        precision=settings.precision,
        vram_budget=settings.vram_budget,
        refiner=settings.use_refiner,
        base=settings.base,
        refiner_source=settings.refiner,
        cache_dir=settings.cache_dir,
        tuning=settings.tuning,
        fake_script=settings.fake_script,
    )


def _engine_settings(settings: Settings, model: LoadedModel) -> EngineSettings:
    defaults = model.profile.defaults
    swapping = model.memory_plan.residency is Residency.SWAP
    return EngineSettings(
        queue_capacity=settings.queue_capacity,
        max_running=settings.max_running,
        max_delivering=settings.max_delivering,
        row_budget=settings.row_budget or model.profile.row_budget,
        row_knees={} if settings.row_budget else model.row_knees,
        native_area=(defaults.width // 8) * (defaults.height // 8),
        switch_seconds=SWAP_SECONDS if swapping else 0.0,
        siblings_apart=model.device.type == "cpu" and model.precision is Precision.FP32,
        encode_threads=settings.encode_threads,
        recent=settings.recent_generations,
        recent_seconds=settings.recent_seconds,
    )


def _server_settings(settings: Settings) -> api.ServerSettings:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return api.ServerSettings(
        address=f"{host}:{settings.port}",
        health_address=None if settings.health_port is None else f"{host}:{settings.health_port}",
        max_receive_bytes=settings.max_request_bytes,
        max_connection_age=settings.max_connection_age,
    )


def _edge_settings(settings: Settings) -> api.EdgeSettings:
    return api.EdgeSettings(
        stream=api.StreamSettings(chunk_bytes=settings.chunk_bytes, send_timeout=settings.send_timeout),
        journal=api.JournalSettings(max_bytes=settings.kept_events_bytes, seconds=settings.kept_events_seconds),
        allow_isolate_batch=settings.allow_isolate_batch,
    )


def _write_ports(path: Path | None, ports: Mapping[str, int | None]) -> None:
    """Writes the bound ports for whoever started this process with port 0; the file appears whole or not at all."""
    if path is None:
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(ports), encoding="utf-8")
    partial.replace(path)


def _stop_on_signals(log: structlog.stdlib.BoundLogger) -> asyncio.Future[None]:
    """Returns a future that SIGTERM or SIGINT completes; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[None] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if asked.done():
            log.warning("second signal: exiting at once", signal=number.name)
            os._exit(128 + number)
        log.info("signal", signal=number.name)
        asked.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return asked
