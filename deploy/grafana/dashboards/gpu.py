"""The dashboard *GPU health*: whether a GPU is hot, throttled, full or sick."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from dashboards import frame, gpu_device, gpu_memory, gpu_now


def dashboard() -> models.Dashboard:
    """Returns the dashboard."""
    return frame.build(
        "imagegen-gpu",
        "ImageGen / GPU health",
        "Memory, load, heat, power and faults of the GPUs that the servers own.",
        [
            gpu_now.now(),
            gpu_memory.memory(),
            gpu_memory.allocator(),
            gpu_device.load(),
            gpu_device.heat(),
            gpu_device.energy(),
            gpu_device.faults(),
        ],
    )
