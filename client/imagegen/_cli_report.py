"""What the command line says about results: text for people, one JSON object for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagegen import types


def generation_json(completed: types.Completed, files: Sequence[Path]) -> dict[str, Any]:
    """Returns the JSON object of a generation. Durations in seconds, sizes in bytes or pixels as named."""
    first = completed.images[0]
    return {
        "request_id": completed.request_id,
        "plan": dataclasses.asdict(first.plan),
        "images": [
            {
                "file": str(file),
                "image_index": image.image_index,
                "seed": image.seed,
                "width": image.width,
                "height": image.height,
                "mime_type": image.mime_type,
                "size_bytes": len(image.data),
                "sha256": image.sha256,
                "refined": image.refined,
                "url": image.url,
            }
            for image, file in zip(completed.images, files, strict=True)
        ],
        "stage_timings": [dataclasses.asdict(timing) for timing in completed.stage_timings],
        "total_duration": completed.total_duration,
        "peak_memory_bytes": completed.peak_memory_bytes,
        "device_seconds": completed.device_seconds,
        "wasted_device_seconds": completed.wasted_device_seconds,
        "energy_joules": completed.energy_joules,
        "images_per_joule": completed.images_per_joule,
        "fallbacks": [dataclasses.asdict(taken) for taken in completed.fallbacks],
        "warnings": [dataclasses.asdict(warning) for warning in first.warnings],
    }


def generation_text(completed: types.Completed, files: Sequence[Path]) -> str:
    """Returns the summary of a generation for people."""
    lines = ["times:" if len(completed.images) == 1 else "times (stages of different images overlap):"]
    for timing in completed.stage_timings:
        steps = f"  {timing.steps} steps" if timing.steps else ""
        lines.append(f"{timing.stage:<12} {timing.duration:8.2f} s{steps}")
    lines.append(f"{'total':<12} {completed.total_duration:8.2f} s")
    for warning in completed.images[0].warnings:
        lines.append(f"warning: {warning.message}")
    for taken in completed.fallbacks:
        route = f"{taken.from_stage} -> {taken.to_stage} ({taken.reason})"
        lines.append(f"fallback: image {taken.image_index}, {route}: {taken.message}")
    for image, file in zip(completed.images, files, strict=True):
        refined = "refined" if image.refined else "not refined"
        facts = f"seed {image.seed}, {image.width}x{image.height}, {len(image.data)} bytes, {refined}"
        lines.append(f"wrote {file} ({facts})")
        if image.url:
            lines.append(f"kept at {image.url}")
    return "\n".join(lines)


def found_json(found: types.GenerationInfo) -> dict[str, Any]:
    """Returns the JSON object of what a server knows of a generation."""
    facts = dataclasses.asdict(found)
    for image in facts["images"]:
        del image["data"]
    if found.failure is not None:
        facts["failure"]["code"] = found.failure.code.name
    return facts


def found_text(found: types.GenerationInfo) -> str:
    """Returns what a server knows of a generation, for people."""
    lines = [f"{found.request_id}: {found.state}"]
    if found.end_time is None:
        lines = [f"{found.request_id}: {found.state}, {found.stage}, {found.overall_fraction:.0%}"]
    if found.failure is not None:
        lines.append(f"{found.failure.code.name} in {found.stage}: {found.failure.message}")
    if found.outcome is not None:
        lines.append(f"total {found.outcome.total_duration:.2f} s")
    for image in found.images:
        refined = "refined" if image.refined else "not refined"
        facts = f"seed {image.seed}, {image.mime_type}, {image.size_bytes} bytes, {refined}"
        lines.append(f"image {image.image_index}: {facts}{f', {image.url}' if image.url else ''}")
    return "\n".join(lines)


def models_text(models: Sequence[types.ModelInfo]) -> str:
    """Returns the model profiles for people."""
    lines: list[str] = []
    for model in models:
        limits, defaults = model.limits, model.defaults
        state = "loaded" if model.loaded else "not loaded"
        refiner = "with refiner" if model.refiner_loaded else "without refiner"
        size = f"{defaults.size.width}x{defaults.size.height}"
        lines += [
            f"{model.name} ({state}, {refiner}): {model.description}",
            f"  size        {size}; sides {limits.min_side} to {limits.max_side}, multiples of {limits.side_multiple}",
            f"  steps       {defaults.num_inference_steps}, fast {defaults.fast_num_inference_steps};"
            f" {limits.min_steps} to {limits.max_steps}",
            f"  refiner     {defaults.refiner_num_inference_steps} steps"
            + (f"; 1 to {limits.max_refiner_steps}" if limits.max_refiner_steps else ""),
            f"  guidance    {defaults.guidance_scale:g}, fast {defaults.fast_guidance_scale:g};"
            f" {limits.min_guidance_scale:g} to {limits.max_guidance_scale:g}",
            f"  images      1 to {limits.max_images}",
            f"  scheduler   {defaults.scheduler}",
            *(f"              {name}" for name in model.schedulers if name != defaults.scheduler),
        ]
    return "\n".join(lines)


def info_text(info: types.ServerInfo) -> str:
    """Returns a server's description for people."""
    device = info.device
    driver = f", driver {device.driver}" if device.driver else ""
    lines = [
        f"version     {info.version}, {info.state}",
        f"model       {info.model}, {info.precision}",
        f"device      {device.type}: {device.name}{driver}, {device.total_memory_bytes / 2**30:.1f} GiB",
        f"queue       {info.queued} of {info.queue_capacity} waiting, {info.running} running",
    ]
    if info.memory_plan is not None:
        lines.append(f"memory      {info.memory_plan.residency}: {info.memory_plan.explanation}")
    lines.append("packages    " + ", ".join(f"{name} {version}" for name, version in info.packages.items()))
    return "\n".join(lines)
