"""The row of *Service* about images that are kept."""

from __future__ import annotations

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import BAD, YES_IS_A_WARNING, Unit, graph, timeline
from imagegen_server.telemetry import metrics as m


def kept() -> Row:
    """Returns the row of the store: what is written, read and removed."""
    return Row(
        title="Kept images",
        panels=[
            graph(
                "Images to be kept, by outcome",
                "Images per second that were to be kept, by how that ended. Those that were not were sent as ever, "
                "with a warning and without a URL. Empty without a store.",
                Unit.PER_SECOND,
                (f"{q.rate(m.STORE_WRITES_TOTAL, by='outcome')} > 0", "{{outcome}}"),
                stack=True,
                colors={"ok": "green", "full": "orange", "timeout": "red", "denied": "dark-red"},
                alerts=["StoreFailing"],
            ),
            graph(
                "Time until an image is kept",
                "From an image's being made to its being kept. It is sent meanwhile; the end of the generation waits.",
                Unit.SECONDS,
                *measures.quantiles(m.STORE_WRITE_SECONDS),
            ),
            graph(
                "Fetches, by outcome",
                "Images asked for over HTTP, per second. not_found: a wrong name, or one that retention removed; "
                "damaged: a file that is not what its name says; failed: the store did not answer.",
                Unit.REQUESTS_PER_SECOND,
                (f"{q.rate(m.STORE_READS_TOTAL, by='outcome')}", "{{outcome}}"),
                stack=True,
                colors={"ok": "green", "not_modified": "blue", "not_found": "orange", "failed": BAD},
            ),
            graph(
                "Bytes kept",
                "Images and parameters in the store as its servers last saw it, and the most that may be there. "
                "Servers that share a store see the same bytes.",
                Unit.BYTES,
                (q.total(m.STORE_BYTES, of="max"), "kept"),
                (f"{q.total(m.STORE_LIMIT, of='max')} > 0", "limit"),
                alerts=["StoreFailing"],
            ),
            graph(
                "Images in the store",
                "Images in the store as its servers last saw it.",
                Unit.COUNT,
                (q.total(m.STORE_IMAGES, of="max"), "images"),
            ),
            graph(
                "Images removed",
                "Images that retention removed, per second: too old, or the oldest of too many bytes. Failed sweeps "
                "remove nothing.",
                Unit.PER_SECOND,
                (q.rate(m.STORE_REMOVED, by="reason"), "{{reason}}"),
                (q.rate(m.STORE_SWEEP_FAILURES), "failed sweeps"),
                alerts=["StoreSweepFailing"],
            ),
            timeline(
                "Sweeps fail",
                "yes: the last time that a server looked for what must go from the store, it could not look or delete.",
                (q.total(m.STORE_SWEEP_FAILING, by="instance", of="max"), "{{instance}}"),
                states=YES_IS_A_WARNING,
                width=24,
                alerts=["StoreSweepFailing"],
            ),
        ],
    )
