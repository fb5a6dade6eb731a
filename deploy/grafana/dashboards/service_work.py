"""Rows of *Service* about the work: stages, steps and batches, the queue."""

from __future__ import annotations

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import BAD, WARN, Unit, graph, heatmap
from imagegen_server.telemetry import metrics as m

_OK = 'outcome="ok"'
_NOT_OK = 'outcome!="ok"'
_WORK = 'stage!="queued"'  # waiting has a row of its own


def stages() -> Row:
    """Returns the row of how long stages take."""
    return Row(
        title="Stages",
        panels=[
            *(
                heatmap(
                    f"Stage {stage}",
                    f"Wall time of {what}, for each image, where it went well.",
                    Unit.SECONDS,
                    q.buckets(m.STAGE_DURATION, f'stage="{stage}"', _OK),
                    alerts=["StageSlow"],
                )
                for stage, what in (
                    ("base", "the base's denoising, which composes the latent"),
                    ("refiner", "the refiner's denoising, which sharpens it"),
                    ("vae_decode", "decoding, from latent to pixels"),
                )
            ),
            graph(
                "Stages, p50",
                "Half of the images spent at most this long in the stage. send is the caller's reading.",
                Unit.SECONDS,
                (q.quantile(0.5, m.STAGE_DURATION, _OK, _WORK, by="stage"), "{{stage}}"),
                alerts=["StageSlow"],
            ),
            graph(
                "Stages, p95",
                "95 % of the images spent at most this long in the stage.",
                Unit.SECONDS,
                (q.quantile(0.95, m.STAGE_DURATION, _OK, _WORK, by="stage"), "{{stage}}"),
                alerts=["StageSlow"],
            ),
            graph(
                "Stages that did not go well",
                "Images per second that left a stage by another way than its end.",
                Unit.PER_SECOND,
                (f"{q.rate(m.STAGE_DURATION, _NOT_OK, by='stage, outcome')} > 0", "{{stage}} {{outcome}}"),
            ),
        ],
    )


def steps() -> Row:
    """Returns the row of the device's turns."""
    return Row(
        title="Steps and batches",
        panels=[
            graph(
                "Steps",
                "Denoising steps per second, those of all images of a batch counted. None while generations are in "
                "flight: something is stuck.",
                Unit.PER_SECOND,
                (q.rate(m.STAGE_STEPS, by="stage"), "{{stage}}"),
                stack=True,
                alerts=["StuckGeneration"],
            ),
            graph(
                "Prompts, by where their embeddings came from",
                "Texts per second that the encoders read, or that were known from before or from the other stage.",
                Unit.PER_SECOND,
                (q.rate(m.TEXTS_ENCODED, by="source"), "{{source}}"),
                stack=True,
            ),
            graph(
                "Step duration",
                "Device time of one batched UNet evaluation. It grows with the rows of a batch, with the image's size, "
                "and when the GPU is throttled.",
                Unit.SECONDS,
                (q.quantile(0.5, m.STEP_DURATION, by="stage"), "{{stage}} p50"),
                (q.quantile(0.95, m.STEP_DURATION, by="stage"), "{{stage}} p95"),
                alerts=["StageSlow", "GpuThermalThrottle"],
            ),
            heatmap(
                "Step duration, spread",
                "Device time of one batched UNet evaluation, of both stages.",
                Unit.SECONDS,
                q.buckets(m.STEP_DURATION),
                alerts=["StageSlow"],
            ),
            heatmap(
                "Rows of a batch",
                "UNet rows evaluated at once. A guided image takes two. Low under load: requests differ in size, or "
                "ask to be alone.",
                Unit.COUNT,
                q.buckets(m.BATCH_ROWS),
            ),
            graph(
                "Rows of a batch, mean",
                "UNet rows evaluated at once.",
                Unit.COUNT,
                (q.mean(m.BATCH_ROWS, by="stage"), "{{stage}}"),
                alerts=["FeatureDegraded"],
            ),
            graph(
                "Device at work",
                "Share of the time for which turns kept a device busy, summed over servers: 100 % is one device that "
                "never rests.",
                Unit.RATIO,
                (q.rate(m.DEVICE_SECONDS, by="stage"), "{{stage}}"),
                stack=True,
                alerts=["GpuIdleWithQueue"],
            ),
        ],
    )


def queue() -> Row:
    """Returns the row of waiting and being refused."""
    return Row(
        title="Queue",
        panels=[
            graph(
                "Waiting",
                "Generations that wait for the device, and how many may, by server.",
                Unit.COUNT,
                (q.total(m.QUEUED, by="instance"), "{{instance}}"),
                (q.total(m.QUEUE_CAPACITY, by="instance", of="max"), "{{instance}} places"),
                alerts=["QueueSaturated"],
            ),
            graph(
                "Queue taken",
                "Share of the places for waiting generations that are taken, where it is most. At 100 % callers are "
                "refused.",
                Unit.RATIO,
                (measures.QUEUE_SATURATION, "taken"),
                most=1,
                thresholds=((0.7, WARN), (0.9, BAD)),
                alerts=["QueueSaturated"],
            ),
            graph(
                "Wait, quantiles",
                "From admission to the first turn on the device.",
                Unit.SECONDS,
                (q.quantile(0.5, m.QUEUE_WAIT, by="priority"), "{{priority}} p50"),
                (q.quantile(0.95, m.QUEUE_WAIT, by="priority"), "{{priority}} p95"),
                alerts=["QueueSaturated"],
            ),
            heatmap(
                "Wait",
                "From admission to the first turn on the device, of both priorities.",
                Unit.SECONDS,
                q.buckets(m.QUEUE_WAIT),
                alerts=["QueueSaturated"],
            ),
            graph(
                "Refused, by reason",
                "Generations per second refused before any work. queue_full: more arrives than the device can do. "
                "deadline: it would not have been done in time.",
                Unit.REQUESTS_PER_SECOND,
                (q.rate(m.REJECTED, by="reason"), "{{reason}}"),
                stack=True,
                alerts=["RejectRate", "QueueSaturated"],
            ),
            graph(
                "Refused credentials",
                "Calls per second whose credentials were missing, wrong, out of date, or not enough.",
                Unit.REQUESTS_PER_SECOND,
                (q.rate(m.AUTH_FAILURES_TOTAL, by="reason"), "{{reason}}"),
                stack=True,
                alerts=["AuthFailureSpike"],
            ),
        ],
    )
