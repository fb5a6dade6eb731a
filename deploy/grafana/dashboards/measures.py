"""Measures that several panels show. Ratios run from 0 to 1."""

from __future__ import annotations

from typing import Final

from dashboards import queries as q
from imagegen_server.telemetry import metrics as m

DELIVERED: Final = 'outcome=~"ok|degraded"'
"""Matches generations whose images the caller got."""
_FAILED: Final = 'outcome=~"deadline|error"'
_ENDED: Final = 'outcome=~"ok|degraded|deadline|error"'  # a cancel is the caller's, a refusal no generation
_TO_DO: Final = f"({q.select(m.IN_FLIGHT)} - {q.select(m.DELIVERING)})"
_HELD: Final = f"sum by (job, instance) (min_over_time({_TO_DO}[2m:1s])) > bool 0"
_STILL: Final = f"sum by (job, instance) (increase({q.select(m.STAGE_STEPS)}[2m])) == bool 0"

SERVING: Final = f"min({q.select(m.SERVING)} or on (job, instance) 0 * {q.select('up')})"
"""1 if every server takes generations, else 0: one that does not answer takes none."""
QUEUE_SATURATION: Final = f"max({q.recorded('instance_model:imagegen_queue_saturation:ratio')})"
"""Share of the queue that is taken, where it is most: one server refuses callers while others have places."""
FALLBACK_RATIO: Final = q.share(q.rate(m.REQUEST_DURATION, 'outcome="degraded"'), q.rate(m.REQUEST_DURATION, DELIVERED))
"""Share of the delivered generations that departed from their plan."""
FAILED_RATIO: Final = q.share(q.rate(m.REQUEST_DURATION, _FAILED), q.rate(m.REQUEST_DURATION, _ENDED))
"""Share of the generations that failed through no doing of their caller."""
WASTED_RATIO: Final = q.share(q.rate(m.WASTED), q.rate(m.DEVICE_SECONDS))
"""Share of the device's time whose result nobody got."""
STUCK: Final = f"max(({_HELD}) * on (job, instance) ({_STILL}))"
"""1 if a server held generations for two minutes that were not only being read, and executed no step, else 0."""
RESTARTS: Final = f"max by (instance) (changes({q.select(m.PROCESS_START)}[1h]))"
"""How often a server started anew in the last hour, by server."""
_DOWN: Final = f"({q.select('up')} == 0 and on (job, instance) max_over_time({q.select(m.GPU_HEALTH)}[1d]))"
GPU_HEALTH: Final = f"min({q.select(m.GPU_HEALTH)} or on (job, instance) {_DOWN})"
"""1 if every GPU is well, else 0: that of a server which does not answer is not."""
_HAS_GPU: Final = f"max_over_time({q.select(m.GPU_COLLECTOR_UP)}[1d]) == 1 or {q.select(m.TORCH_RESERVED)} >= 0"
GPU_READ: Final = f"({q.select(m.GPU_COLLECTOR_UP)} and on (job, instance) ({_HAS_GPU}))"
"""1 if a server's GPU is being read, else 0, by server that has one: as the alert knows them."""
MEMORY_HEADROOM: Final = q.recorded("instance_gpu:imagegen_gpu_memory_headroom:ratio")
"""Share of a GPU's memory that could still be had, as the alert sees it, by GPU."""
IMAGES_PER_JOULE: Final = q.recorded("instance:imagegen_images_per_joule:ratio_rate5m")
"""Image files made for each joule of the GPUs, idle included, by server."""
_JOULES: Final = f"rate({q.select(m.GPU_ENERGY)}[5m]) and on (job, instance) {q.select(m.IMAGES)}"
_IMAGES: Final = f"rate({q.select(m.IMAGES)}[5m]) and on (job, instance) {q.select(m.GPU_ENERGY)}"
JOULES_PER_IMAGE: Final = q.quotient(q.aggregate(_JOULES), q.aggregate(_IMAGES))
"""Joules of all GPUs that tell them, idle included, for each image file that their servers made."""
DEGREES_TO_LIMIT: Final = f"min({q.select(m.GPU_TEMPERATURE_LIMIT)} - {q.select(m.GPU_TEMPERATURE)})"
"""Degrees Celsius until the clocks of the hottest GPU are held down."""
POWER_RATIO: Final = f"max({q.quotient(q.select(m.GPU_POWER), q.select(m.GPU_POWER_LIMIT))})"
"""Power drawn, of the limit that is enforced, where it is highest."""
_WITH_WORK: Final = 'reason!="low_utilization"'
THROTTLED: Final = f"max(rate({q.select(m.GPU_THROTTLE, _WITH_WORK)}[$__rate_interval]))"
"""Share of the time for which clocks were held down although there was work, where it is most."""
_WAITING: Final = f"sum by (job, instance) (min_over_time({q.select(m.QUEUED)}[5m])) > bool 0"
_RESTING: Final = f"max by (job, instance) (avg_over_time({q.select(m.GPU_UTILIZATION)}[5m])) < bool 0.1"
IDLE_WITH_QUEUE: Final = f"max(({_WAITING}) * on (job, instance) ({_RESTING}))"
"""1 if a GPU rested for five minutes while generations waited for it, else 0."""


def quantiles(metric: m.Metric, *matchers: str) -> tuple[tuple[str, str], ...]:
    """Returns p50, p95 and p99 of a histogram, for a graph."""
    return tuple((q.quantile(part, metric, *matchers), f"p{part * 100:.0f}") for part in (0.5, 0.95, 0.99))
