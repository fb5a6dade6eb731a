"""Protobuf descriptions of a server and its models to the client's values. Pure."""

from __future__ import annotations

from imagegen import types
from imagegen._convert import RESIDENCIES, SERVER_STATES, epoch, refiner_mode, size
from imagegen.v1 import imagegen_pb2 as pb


def _limits(message: pb.Limits) -> types.Limits:
    return types.Limits(
        min_steps=message.min_steps,
        max_steps=message.max_steps,
        min_guidance_scale=message.min_guidance_scale,
        max_guidance_scale=message.max_guidance_scale,
        min_side=message.min_side,
        max_side=message.max_side,
        side_multiple=message.side_multiple,
        max_images=message.max_images,
        max_prompt_characters=message.max_prompt_characters,
        max_pixels=message.max_pixels,
        max_refiner_steps=message.max_refiner_steps or None,
    )


def _defaults(message: pb.Defaults) -> types.Defaults:
    return types.Defaults(
        num_inference_steps=message.num_inference_steps,
        guidance_scale=message.guidance_scale,
        fast_num_inference_steps=message.fast_num_inference_steps,
        fast_guidance_scale=message.fast_guidance_scale,
        size=size(message.size),
        scheduler=message.scheduler,
        refiner_mode=refiner_mode(message.refiner_mode),
        refiner_num_inference_steps=message.refiner_num_inference_steps,
        refiner_strength=message.refiner_strength,
        refiner_switch_at=message.refiner_switch_at,
        aesthetic_score=message.aesthetic_score,
        negative_aesthetic_score=message.negative_aesthetic_score,
        refiner_guidance_scale=message.refiner_guidance_scale if message.HasField("refiner_guidance_scale") else None,
    )


def model(message: pb.Model) -> types.ModelInfo:
    """Returns a model profile."""
    return types.ModelInfo(
        name=message.name,
        description=message.description,
        loaded=message.loaded,
        refiner_loaded=message.refiner_loaded,
        limits=_limits(message.limits),
        defaults=_defaults(message.defaults),
        schedulers=tuple(message.schedulers),
        base_source=message.base_source,
        refiner_source=message.refiner_source,
    )


def _memory_plan(message: pb.MemoryPlan) -> types.MemoryPlan:
    return types.MemoryPlan(
        residency=RESIDENCIES.get(message.residency, types.Residency.UNKNOWN),
        precision=message.precision,
        available_bytes=message.available_bytes,
        weights_bytes=message.weights_bytes,
        working_bytes=message.working_bytes,
        components=tuple(
            types.ComponentSize(name=part.name, parameters=part.parameters, bytes=part.bytes)
            for part in message.components
        ),
        explanation=message.explanation,
        predicted_peak_bytes=message.predicted_peak_bytes,
    )


def server_info(message: pb.GetServerInfoResponse) -> types.ServerInfo:
    """Returns what a server says about itself."""
    device = message.device
    return types.ServerInfo(
        version=message.version,
        state=SERVER_STATES.get(message.state, types.ServerState.UNKNOWN),
        model=message.model,
        device=types.DeviceInfo(
            type=device.type,
            name=device.name,
            driver=device.driver,
            total_memory_bytes=device.total_memory_bytes,
        ),
        precision=message.precision,
        memory_plan=_memory_plan(message.memory_plan) if message.HasField("memory_plan") else None,
        packages={package.name: package.version for package in message.packages},
        queue_capacity=message.queue_capacity,
        queued=message.queued,
        running=message.running,
        start_time=epoch(message.start_time),
    )
