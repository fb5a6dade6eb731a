"""The row of *Service* about the servers: what runs where, and the processes."""

from __future__ import annotations

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import BAD, LOW, WARN, YES_IS_GOOD, Panel, Unit, facts, graph, number, timeline
from imagegen_server.telemetry import metrics as m

_DAY = 86_400


def servers() -> Row:
    """Returns the row of what runs where."""
    return Row(
        title="Servers",
        panels=[
            facts(
                "Models",
                "What is loaded: revision of the weights, arithmetic, and whether both stages stay on the device.",
                Unit.NUMBER,
                q.total(m.MODEL_INFO, by="instance, model, revision, dtype, residency", of="max"),
                ["instance", "model", "revision", "dtype", "residency"],
                width=12,
            ),
            facts(
                "Versions",
                "The version that each server runs.",
                Unit.NUMBER,
                q.total(m.BUILD_INFO, by="instance, version", of="max"),
                ["instance", "version"],
                width=6,
            ),
            number(
                "Certificate ends in",
                "Time until the first certificate of a server ends; empty without TLS.",
                Unit.SECONDS,
                f"{q.total(m.CERTIFICATE_EXPIRY, of='min')} - time()",
                width=6,
                height=LOW,
                thresholds=((0, BAD), (2 * _DAY, WARN), (14 * _DAY, "green")),
                alerts=["CertExpiry", "CertExpiryImminent"],
            ),
            timeline(
                "Models loaded",
                "Whether the model of a stage is loaded.",
                (q.total(m.MODEL_LOADED, by="instance, stage", of="max"), "{{stage}} {{instance}}"),
                states=YES_IS_GOOD,
                height=LOW,
                alerts=["RefinerDegraded", "NotServing"],
            ),
            graph(
                "Loading time",
                "How long loading and warming up took, which the stages do together.",
                Unit.SECONDS,
                (q.total(m.MODEL_LOAD_SECONDS, by="stage", of="max"), "{{stage}}"),
                width=12,
                height=LOW,
            ),
            *_processes(),
        ],
    )


def _processes() -> list[Panel]:
    files = q.quotient(q.total(m.PROCESS_FDS, by="instance"), q.total(m.PROCESS_FDS_LIMIT, by="instance"))
    return [
        graph(
            "Restarts",
            "How often a server started anew in the last hour, on purpose or because it had died.",
            Unit.COUNT,
            (measures.RESTARTS, "{{instance}}"),
            thresholds=((1, WARN), (3, BAD)),
            alerts=["Restarting"],
        ),
        graph(
            "Age",
            "For how long a server has run.",
            Unit.SECONDS,
            (f"time() - {q.total(m.PROCESS_START, by='instance', of='max')}", "{{instance}}"),
            alerts=["Restarting"],
        ),
        graph(
            "Processors",
            "Processor time per second, of the host: 100 % is one core.",
            Unit.RATIO,
            (q.rate(m.PROCESS_CPU, by="instance"), "{{instance}}"),
            alerts=["StageSlow"],
        ),
        graph(
            "Host memory",
            "The host's memory that a server uses. One that grows for days will be ended by the kernel.",
            Unit.BYTES,
            (q.total(m.PROCESS_RESIDENT, by="instance"), "{{instance}}"),
            alerts=["Restarting"],
        ),
        graph(
            "Address space",
            "What a server has reserved; CUDA reserves far more than there is memory.",
            Unit.BYTES,
            (q.total(m.PROCESS_VIRTUAL, by="instance"), "{{instance}}"),
        ),
        graph(
            "Open files",
            "File descriptors, of those that may be open. At 100 % no caller can connect.",
            Unit.RATIO,
            (files, "{{instance}}"),
            most=1,
            thresholds=((0.8, BAD),),
        ),
    ]
