"""The settings as each room takes them: a part of the composition root."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from imagegen_server import api, models
from imagegen_server.core import LoadedModel, Precision, Residency
from imagegen_server.engine import SWAP_SECONDS, EngineSettings
from imagegen_server.settings import Settings, bracketed

READERS_PER_PLACE: Final = 4
"""Calls that may be read to for each generation that may wait for its reader."""


def check_limits(settings: Settings) -> None:
    """Raises StartupError if the operator's limits admit nothing: before a model is loaded for that."""
    settings.limits(models.bare_profile(settings.model).limits)


def with_limits(model: LoadedModel, settings: Settings) -> LoadedModel:
    """Returns the model with the limits that the operator set, and its defaults brought into them."""
    limits = settings.limits(model.profile.limits)
    profile = dataclasses.replace(model.profile, limits=limits, defaults=model.profile.defaults.within(limits))
    return dataclasses.replace(model, profile=profile)


def changed_defaults(before: LoadedModel, after: LoadedModel) -> dict[str, Any]:
    """Returns the defaults of a model that its limits changed, as they are now."""
    old, new = (dataclasses.asdict(model.profile.defaults) for model in (before, after))
    return {name: value for name, value in new.items() if value != old[name]}


def model_options(settings: Settings) -> models.ModelOptions:
    """Returns what the operator chose about the model."""
    return models.ModelOptions(
        device=settings.device,
        precision=settings.precision,
        vram_budget=settings.vram_budget,
        row_budget=settings.row_budget,
        refiner=settings.use_refiner,
        base=settings.base,
        refiner_source=settings.refiner,
        cache_dir=settings.cache_dir,
        tuning=settings.tuning,
        fake_script=settings.fake_script,
    )


def engine_settings(settings: Settings, model: LoadedModel) -> EngineSettings:
    """Returns how much the engine takes on, with a model on its device."""
    swapping = model.memory_plan.residency is Residency.SWAP
    return EngineSettings(
        queue_capacity=settings.queue_capacity,
        max_running=settings.max_running,
        max_delivering=settings.max_delivering,
        callers_told_apart=settings.authenticates,
        row_budget=settings.row_budget or model.profile.row_budget,
        row_knees={} if settings.row_budget else model.row_knees,
        native_area=model.profile.native_area,
        switch_seconds=SWAP_SECONDS if swapping else 0.0,
        siblings_apart=model.device.type == "cpu" and model.precision is Precision.FP32,
        encode_threads=settings.encode_threads,
        recent=settings.recent_generations,
        recent_seconds=settings.recent_seconds,
    )


def server_settings(settings: Settings) -> api.ServerSettings:
    """Returns where gRPC is served."""
    host = bracketed(settings.host)
    return api.ServerSettings(
        address=f"{host}:{settings.port}",
        health_address=None if settings.health_port is None else f"{host}:{settings.health_port}",
        max_receive_bytes=settings.max_request_bytes,
        max_connection_age=settings.max_connection_age,
    )


def edge_settings(settings: Settings) -> api.EdgeSettings:
    """Returns how calls are answered."""
    return api.EdgeSettings(
        stream=api.StreamSettings(chunk_bytes=settings.chunk_bytes, send_timeout=settings.send_timeout),
        journal=api.JournalSettings(max_bytes=settings.kept_events_bytes, seconds=settings.kept_events_seconds),
        max_readers=READERS_PER_PLACE * settings.max_delivering,
        callers_told_apart=settings.authenticates,
        allow_isolate_batch=settings.allow_isolate_batch,
    )
