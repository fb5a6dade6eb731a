"""The figures of a report, as values. None everywhere means: the server does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imagegen_server.top.gpu import Allocator, Gpu


@dataclass(kw_only=True, frozen=True, slots=True)
class Count:
    """A counter."""

    name: str
    """Its label's value."""
    total: float | None
    """Since the server's start."""
    recent: float | None
    """In the window."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Span:
    """A duration's distribution, in seconds: in the window, or since the server's start (`Report.since_start`)."""

    count: float | None = None
    p50: float | None = None
    p95: float | None = None
    shortest: float | None = None
    """The least bound of the buckets: a quantile that does not exceed it is anything from 0 to it."""
    longest: float | None = None
    """The greatest bound of the buckets: a quantile that reaches it may be longer."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Server:
    """Which server this is, and how it is."""

    state: str | None
    """loading, serving or draining."""
    model: str | None
    version: str | None
    dtype: str | None
    residency: str | None
    degraded: tuple[str, ...] | None
    """Features that are out of order."""
    certificate_ends: float | None
    """Unix time."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Load:
    """How much there is to do."""

    in_flight: float | None
    peak_in_flight: float | None
    """Most in flight at any scrape of the window."""
    queued: float | None
    capacity: float | None
    busy: float | None
    """Share of the window in which the device worked, 0 to 1."""
    generations_per_minute: float | None
    """Generations that delivered."""
    images_per_minute: float | None
    queue_wait: Mapping[str, Span]
    """By priority."""
    first_progress: Span


@dataclass(kw_only=True, frozen=True, slots=True)
class StageRow:
    """One stage."""

    name: str
    steps_per_second: float | None
    step: Span
    """Device time of one batched evaluation."""
    rows: float | None
    """Mean rows of a batch."""
    duration: Span
    """Wall time of the stage where it ended well."""
    not_ok: float | None
    """How often it ended otherwise."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Waste:
    """Device time whose result nobody got."""

    reasons: tuple[Count, ...]
    """Seconds."""
    ratio: float | None
    """Share of the device's time in the window, 0 to 1."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Report:
    """Everything that is shown."""

    server: Server
    load: Load
    outcomes: tuple[Count, ...]
    codes: tuple[Count, ...]
    """Status codes of calls that occurred."""
    stages: tuple[StageRow, ...]
    fallbacks: tuple[Count, ...]
    rejections: tuple[Count, ...]
    cancellations: tuple[Count, ...]
    """By the stage that was stopped."""
    cancel_latency: Span
    auth_failures: tuple[Count, ...]
    waste: Waste
    gpus: tuple[Gpu, ...]
    gpu_read: bool | None
    """Whether a GPU is being read."""
    gpu_errors: tuple[Count, ...]
    """Failed readings, by call."""
    allocator: Allocator
    budget_bytes: float | None
    """What the memory plan may use."""
    planned_bytes: float | None
    """What it predicts."""
    seconds: float | None = None
    """Length of the window for rates; None before there are two scrapes."""
    since_start: bool = False
    """Whether stages, durations and shares are since the server's start, not in the window."""
    restarts: int = 0
    """Restarts that were seen."""
