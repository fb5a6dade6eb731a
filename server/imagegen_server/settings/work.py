"""Settings of the engine, and of what is remembered after it."""

from __future__ import annotations

from pydantic import Field

from imagegen_server.settings.group import Group
from imagegen_server.settings.values import Bytes


class WorkSettings(Group):
    """The engine"""

    queue_capacity: int = Field(64, ge=1, le=100_000, description="Generations that may wait for the device.")
    max_running: int = Field(8, ge=1, le=1024, description="Generations on the device at one time.")
    max_delivering: int = Field(32, ge=1, le=4096, description="Generations being encoded or sent at one time.")
    row_budget: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="UNet rows in one batch at the native size; a guided image takes two. "
        "The profile's own if unset: 16 for small models, 4 for SDXL. The memory plan reckons with it.",
    )
    encode_threads: int = Field(2, ge=1, le=64, description="Threads that make image files.")
    allow_isolate_batch: bool = Field(True, description="Serve requests that ask to be alone in their batch.")


class RecallSettings(Group):
    """What is remembered of generations that have ended"""

    recent_generations: int = Field(
        10_000, ge=1, le=1_000_000, description="Most generations that GetGeneration remembers."
    )
    recent_seconds: float = Field(3600.0, gt=0, description="Seconds that GetGeneration remembers a generation.")
    kept_events_bytes: Bytes = Field(
        2**28,
        ge=2**20,
        le=2**40,
        description="Most bytes of events, images included, that are kept in memory for WatchGeneration.",
    )
    kept_events_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Seconds that the events of a generation that outlives its connection are kept after its end.",
    )
