"""The server and its models as messages of the contract."""

from __future__ import annotations

from collections.abc import Sequence

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api.backend import Backend
from imagegen_server.api.enums import REFINER_MODES, RESIDENCIES, SERVER_STATES
from imagegen_server.api.messages import timestamp
from imagegen_server.core import DeviceInfo, LoadedModel, MemoryPlan, ModelProfile
from imagegen_server.errors import Unavailable


def models(profiles: Sequence[ModelProfile], loaded: LoadedModel | None) -> pb.ListModelsResponse:
    """Returns the profiles, the loaded one first; what is loaded is shown as it was loaded."""
    if loaded is None:
        return pb.ListModelsResponse(models=[model(profile, None) for profile in profiles])
    others = [profile for profile in profiles if profile.name != loaded.profile.name]
    return pb.ListModelsResponse(models=[model(profile, loaded) for profile in (loaded.profile, *others)])


def model(profile: ModelProfile, loaded: LoadedModel | None) -> pb.Model:
    """Returns a profile as ListModels shows it."""
    is_loaded = loaded is not None and loaded.profile.name == profile.name
    limits, defaults = profile.limits, profile.defaults
    return pb.Model(
        name=profile.name,
        description=profile.description,
        loaded=is_loaded,
        refiner_loaded=loaded is not None and is_loaded and loaded.refiner_loaded,
        limits=pb.Limits(
            min_steps=limits.min_steps,
            max_steps=limits.max_steps,
            min_guidance_scale=limits.min_guidance_scale,
            max_guidance_scale=limits.max_guidance_scale,
            min_side=limits.min_side,
            max_side=limits.max_side,
            side_multiple=limits.side_multiple,
            max_images=limits.max_images,
            max_prompt_characters=limits.max_prompt_characters,
            max_pixels=limits.max_pixels,
            max_refiner_steps=limits.max_refiner_steps,
        ),
        defaults=pb.Defaults(
            num_inference_steps=defaults.num_inference_steps,
            guidance_scale=defaults.guidance_scale,
            fast_num_inference_steps=defaults.fast_num_inference_steps,
            fast_guidance_scale=defaults.fast_guidance_scale,
            size=pb.Size(width=defaults.width, height=defaults.height),
            scheduler=defaults.scheduler,
            refiner_mode=REFINER_MODES[defaults.refiner_mode],
            refiner_num_inference_steps=defaults.refiner_num_inference_steps,
            refiner_strength=defaults.refiner_strength,
            refiner_switch_at=defaults.refiner_switch_at,
            aesthetic_score=defaults.aesthetic_score,
            negative_aesthetic_score=defaults.negative_aesthetic_score,
            refiner_guidance_scale=defaults.refiner_guidance_scale,
        ),
        schedulers=profile.schedulers,
        base_source=profile.base_source,
        refiner_source=profile.refiner_source,
    )


def _memory_plan(plan: MemoryPlan) -> pb.MemoryPlan:
    """Returns how the models are laid out."""
    return pb.MemoryPlan(
        residency=RESIDENCIES[plan.residency],
        precision=plan.precision,
        available_bytes=plan.available_bytes,
        weights_bytes=plan.weights_bytes,
        working_bytes=plan.working_bytes,
        components=[
            pb.ComponentSize(name=part.name, parameters=part.parameters, bytes=part.bytes) for part in plan.components
        ],
        explanation=plan.explanation,
        predicted_peak_bytes=plan.predicted_peak_bytes,
    )


def server_info(backend: Backend) -> pb.GetServerInfoResponse:
    """Returns the running server; what is not known while loading is left unset."""
    info = pb.GetServerInfoResponse(
        version=backend.version, state=SERVER_STATES[backend.state()], start_time=timestamp(backend.start_time)
    )
    loaded = backend.loaded()
    if loaded is not None:
        info.model = loaded.profile.name
        info.device.CopyFrom(_device(loaded.device))
        info.precision = loaded.precision
        info.memory_plan.CopyFrom(_memory_plan(loaded.memory_plan))
        versions = sorted(loaded.packages.items())
        info.packages.extend(pb.PackageVersion(name=name, version=version) for name, version in versions)
    try:
        queue = backend.engine().queue_state()
    except Unavailable:
        return info
    info.queue_capacity, info.queued, info.running = queue.capacity, queue.queued, queue.running
    return info


def _device(device: DeviceInfo) -> pb.Device:
    return pb.Device(
        type=device.type, name=device.name, driver=device.driver, total_memory_bytes=device.total_memory_bytes
    )
