"""The life of the process from start to end; with the parts beside it, the only file that knows every room."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from imagegen_server import api, models, options, output, telemetry
from imagegen_server.authentication import authentication, tenant_limits
from imagegen_server.core import LoadedModel
from imagegen_server.device_thread import DeviceThread
from imagegen_server.engine import Engine, Runner
from imagegen_server.errors import StageError, StartupError, Unavailable, UnavailableReason
from imagegen_server.keeping import Results
from imagegen_server.monitoring import Telemetry
from imagegen_server.process import VERSION, Process
from imagegen_server.settings import Settings, unknown_variables
from imagegen_server.warm_up import warm_up_request

CLOSE_GRACE: Final = 2.0
"""Seconds that calls get to read their status once everything has ended."""


async def serve(settings: Settings) -> int:
    """Runs the server until SIGTERM or SIGINT; returns the exit status: 0, or 1 if the device was lost.

    Raises StartupError if it cannot start.
    """
    if settings.port_file is not None:
        _try_ports(settings.port_file)
    options.check_limits(settings)
    process = Process(models.model_profiles())
    quotas = api.Quotas(tenant_limits(settings))
    watch = Telemetry(settings, process, quotas)
    if unknown := unknown_variables():
        watch.log.warning("variables that are no settings", names=unknown)
    results = Results.open(settings, watch.store)
    asked_to_stop = _stop_on_signals(watch.log)
    await asyncio.sleep(0)  # a Ctrl-C of before has cancelled this task: it ends here, not within what is bound

    # bind: health answers NOT_SERVING and generations are refused with UNAVAILABLE while models load
    server = await _bind(settings, process, quotas, watch)
    if settings.port_file is not None:  # now that the ports are this process's: it would tell those of an earlier one
        settings.port_file.unlink(missing_ok=True)
    watch.start()
    results.start()
    await server.start()
    watch.log.info("loading", model=settings.model, port=server.port, metrics_port=watch.port)
    try:
        device = DeviceThread(lambda: _load(settings, watch, results), Engine.run_forever)
        device.ended.add_done_callback(lambda ended: _tell_of_loss(ended, watch))
        device.start()
        await _first(device.loaded, asked_to_stop)
        if not device.loaded.done():
            return 0

        # serve
        engine = device.loaded.result()
        process.serve(engine, _limited(engine.loaded(), settings, watch))
        await server.set_serving(True)
        watch.metrics.set_serving(True)
        _tell_ports(settings, server, watch, results)
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


async def _bind(settings: Settings, process: Process, quotas: api.Quotas, watch: Telemetry) -> api.GrpcServer:
    """Returns the gRPC server, bound and not started. Raises StartupError if it cannot be."""
    return await api.create_server(
        process,
        settings=options.server_settings(settings),
        edge=options.edge_settings(settings),
        rpc_observer=watch.rpc,
        edge_observer=watch.edge,
        tls=_tls(settings, watch),
        auth=await authentication(settings, watch.edge, watch.log),
        quotas=quotas,
    )


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


def _limited(model: LoadedModel, settings: Settings, watch: Telemetry) -> LoadedModel:
    """Returns the model with the operator's limits, and tells which defaults they changed."""
    limited = options.with_limits(model, settings)
    if changed := options.changed_defaults(model, limited):
        watch.log.warning("defaults brought into the limits", **changed)
    return limited


async def _first(*futures: asyncio.Future[Any]) -> None:
    """Returns once one of the futures is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _tell_of_loss(ended: asyncio.Future[None], watch: Telemetry) -> None:
    """Logs what broke the device thread, if it did not end by itself."""
    error = ended.exception()
    if error is not None:
        watch.device_lost(error)


async def _drain(engine: Engine, grace: float, watch: Telemetry) -> None:
    """Ends queued generations at once and running ones after `grace` seconds."""
    reason = Unavailable(UnavailableReason.DRAINING, "the server is shutting down")
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
    runner: Runner = models.load_runner(settings.model, options.model_options(settings))
    model = runner.describe()
    watch.serve_on(model.device)
    engine = Engine(
        runner=runner,
        encode=output.encode,
        encode_preview=output.encode_preview,
        observer=watch.engine,
        settings=options.engine_settings(settings, model),
        energy=watch.energy,
        keep=results.keep,
    )
    watch.log.info("memory plan", explanation=model.memory_plan.explanation)
    try:
        engine.warm_up(warm_up_request(options.with_limits(model, settings).profile))
    except StageError as error:
        raise StartupError(f"the model is loaded but does not run: {error}") from error
    watch.describe(engine.loaded(), seconds=time.monotonic() - began)  # the warm-up may have changed the memory plan
    telemetry.adopt_libraries(("diffusers", "transformers"), log_prompts=settings.log_prompts)
    return engine


def _tell_ports(settings: Settings, server: api.GrpcServer, watch: Telemetry, results: Results) -> None:
    """Tells where everything is served: the log, and whoever started this process with port 0."""
    ports = {
        "port": server.port,
        "metrics_port": watch.port,
        "health_port": server.health_port,
        "images_port": results.port,
    }
    if settings.port_file is not None:
        _write_ports(settings.port_file, ports)
    watch.log.info("serving", model=settings.model, **ports, version=VERSION)


def _try_ports(path: Path) -> None:
    """Raises StartupError if the file cannot be written later: before a model is loaded."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise StartupError(f"the port file {path} cannot be written: {error.strerror}") from error


def _write_ports(path: Path, ports: Mapping[str, int | None]) -> None:
    """Writes the bound ports; the file appears whole or not at all. Raises StartupError if that cannot be done."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(ports), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StartupError(f"the port file {path} cannot be written: {error.strerror}") from error


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
