"""What an operator wants to know, computed from a server's scrapes."""

from __future__ import annotations

from typing import Final

from imagegen_server.top.distribution import Distribution
from imagegen_server.top.figures import Count, Load, Report, Server, Span, StageRow, Waste
from imagegen_server.top.gpu import allocator, gpus
from imagegen_server.top.history import Growth, History
from imagegen_server.top.snapshot import Snapshot

OUTCOMES: Final = ("ok", "degraded", "cancelled", "deadline", "rejected", "invalid", "error")
STAGES: Final = ("queued", "text_encode", "base", "refiner", "vae_decode", "image_encode", "send")
PRIORITIES: Final = ("interactive", "batch")


def report(history: History, *, since_start: bool = False) -> Report:
    """Returns what a history tells. Raises ValueError if it is empty.

    Args:
        history: one scrape at least.
        since_start: stages, durations and shares since the server's start instead of in the window; always so while
            there is one scrape only.
    """
    now, lifetime, recent = history.newest, history.lifetime(), history.recent()
    if now is None or lifetime is None:
        raise ValueError("there is no scrape to report on")
    since_start = since_start or recent is None
    spread = lifetime if since_start or recent is None else recent
    tell = _Teller(now, lifetime, recent, spread)
    return Report(
        server=_server(now),
        load=tell.load(history),
        outcomes=tell.counts("imagegen_request_duration_seconds_count", "outcome", OUTCOMES),
        codes=tell.occurred("grpc_server_handled_total", "grpc_code"),
        stages=tuple(tell.stage(name) for name in STAGES),
        fallbacks=tell.occurred("imagegen_fallbacks_total", "reason"),
        rejections=tell.occurred("imagegen_rejected_total", "reason"),
        cancellations=tell.occurred("imagegen_cancelled_total", "stage"),
        cancel_latency=span(spread.distribution("imagegen_cancel_latency_seconds")),
        auth_failures=tell.occurred("imagegen_auth_failures_total", "reason"),
        waste=tell.waste(),
        gpus=gpus(now, spread),
        gpu_read=_flag(now, "imagegen_gpu_collector_up"),
        gpu_errors=tell.occurred("imagegen_gpu_collector_errors_total", "call"),
        allocator=allocator(now),
        budget_bytes=now.total("imagegen_memory_budget_bytes"),
        planned_bytes=now.total("imagegen_memory_planned_bytes"),
        seconds=None if recent is None else recent.seconds,
        since_start=since_start,
        restarts=history.restarts,
    )


def span(seen: Distribution | None) -> Span:
    """Returns the figures of a duration that are shown."""
    if seen is None:
        return Span()
    return Span(
        count=seen.count,
        p50=seen.quantile(0.5),
        p95=seen.quantile(0.95),
        shortest=seen.bottom,
        longest=seen.top,
    )


def _server(now: Snapshot) -> Server:
    info = next(iter(now.label_sets("imagegen_model_info")), {})
    build = next(iter(now.label_sets("imagegen_build_info")), {})
    degraded = [labels["feature"] for labels in now.label_sets("imagegen_degraded")]
    return Server(
        state=_state(now),
        model=info.get("model"),
        version=build.get("version"),
        dtype=info.get("dtype"),
        residency=info.get("residency"),
        degraded=tuple(name for name in degraded if now.total("imagegen_degraded", feature=name)) if degraded else None,
        certificate_ends=now.total("imagegen_tls_cert_expiry_timestamp_seconds"),
    )


def _state(now: Snapshot) -> str | None:
    if _flag(now, "imagegen_draining"):
        return "draining"
    serving = _flag(now, "imagegen_serving")
    return None if serving is None else "serving" if serving else "loading"


def _flag(now: Snapshot, name: str) -> bool | None:
    value = now.total(name)
    return None if value is None else value > 0


class _Teller:
    """Computes parts of the report."""

    def __init__(self, now: Snapshot, lifetime: Growth, recent: Growth | None, spread: Growth) -> None:
        """Args: the last scrape, growth since the start and in the window, and which of them distributions are of."""
        self._now = now
        self._lifetime = lifetime
        self._recent = recent
        self._spread = spread

    def counts(self, name: str, label: str, values: tuple[str, ...]) -> tuple[Count, ...]:
        """Returns the counters of these label values."""
        return tuple(
            Count(
                name=value,
                total=self._lifetime.increase(name, **{label: value}),
                recent=None if self._recent is None else self._recent.increase(name, **{label: value}),
            )
            for value in values
        )

    def occurred(self, name: str, label: str) -> tuple[Count, ...]:
        """Returns the counters that are not 0, greatest first; none but a nameless 0 if all are 0; none if absent."""
        totals = self._lifetime.by(name, label)
        if not totals:
            return ()
        names = sorted((value for value, count in totals.items() if count), key=lambda value: (-totals[value], value))
        return self.counts(name, label, tuple(names)) or (Count(name="", total=0.0, recent=0.0),)

    def load(self, history: History) -> Load:
        """Returns the load."""
        delivered = [self._rate("imagegen_request_duration_seconds_count", outcome=o) for o in ("ok", "degraded")]
        return Load(
            in_flight=self._now.total("imagegen_requests_in_flight"),
            peak_in_flight=history.peak("imagegen_requests_in_flight"),
            queued=self._now.total("imagegen_requests_queued"),
            capacity=self._now.total("imagegen_queue_capacity"),
            busy=self._rate("imagegen_device_seconds_total"),
            generations_per_minute=_per_minute(_added(*delivered)),
            images_per_minute=_per_minute(self._rate("imagegen_images_total")),
            queue_wait={
                priority: span(self._spread.distribution("imagegen_queue_wait_seconds", priority=priority))
                for priority in PRIORITIES
            },
            first_progress=span(self._spread.distribution("imagegen_time_to_first_progress_seconds")),
        )

    def stage(self, name: str) -> StageRow:
        """Returns one stage."""
        rows = self._spread.distribution("imagegen_batch_rows", stage=name)
        ended = self._spread.by("imagegen_stage_duration_seconds_count", "outcome", stage=name)
        return StageRow(
            name=name,
            steps_per_second=self._rate("imagegen_stage_steps_total", stage=name),
            step=span(self._spread.distribution("imagegen_step_duration_seconds", stage=name)),
            rows=None if rows is None else rows.mean,
            duration=span(self._spread.distribution("imagegen_stage_duration_seconds", stage=name, outcome="ok")),
            not_ok=sum(count for outcome, count in ended.items() if outcome != "ok") if ended else None,
        )

    def waste(self) -> Waste:
        """Returns what was wasted."""
        wasted = self._spread.increase("imagegen_wasted_device_seconds_total")
        used = self._spread.increase("imagegen_device_seconds_total")
        return Waste(
            reasons=self.occurred("imagegen_wasted_device_seconds_total", "reason"),
            ratio=wasted / used if wasted is not None and used else None,
        )

    def _rate(self, name: str, **labels: str) -> float | None:
        return None if self._recent is None else self._recent.rate(name, **labels)


def _added(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _per_minute(rate: float | None) -> float | None:
    return None if rate is None else rate * 60
