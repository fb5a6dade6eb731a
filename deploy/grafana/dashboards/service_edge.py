"""Rows of *Service* about the edge: images on their way, and calls."""

from __future__ import annotations

from dashboards import measures
from dashboards import queries as q
from dashboards.frame import Row
from dashboards.panels import Unit, graph, heatmap
from imagegen_server.telemetry import metrics as m


def delivery() -> Row:
    """Returns the row of image files and slow readers."""
    return Row(
        title="Images",
        panels=[
            graph(
                "Images, by format",
                "Image files made per second.",
                Unit.PER_SECOND,
                (q.rate(m.IMAGES, by="format"), "{{format}}"),
                stack=True,
            ),
            graph(
                "Size of an image, mean",
                "Size of an image file.",
                Unit.BYTES,
                (q.mean(m.IMAGE_BYTES, by="format"), "{{format}}"),
            ),
            graph(
                "Image bytes",
                "Bytes of image files made per second.",
                Unit.BYTES_PER_SECOND,
                (q.rate(m.IMAGE_BYTES, by="format", suffix="_sum"), "{{format}}"),
                stack=True,
            ),
            heatmap(
                "Size of an image",
                "Size of an image file, of all formats.",
                Unit.BYTES,
                q.buckets(m.IMAGE_BYTES),
            ),
            heatmap(
                "Write stalls",
                "How long single messages waited for a slow reader. Such callers hold a place for delivery, no device.",
                Unit.SECONDS,
                q.buckets(m.WRITE_STALL),
            ),
            graph(
                "Write stalls, quantiles",
                "How long single messages waited for a slow reader.",
                Unit.SECONDS,
                *measures.quantiles(m.WRITE_STALL),
            ),
        ],
    )


def calls() -> Row:
    """Returns the row of RPCs."""
    return Row(
        title="Calls",
        panels=[
            graph(
                "Calls begun",
                "RPCs per second that arrived; methods that nobody calls are left out. _OTHER is one that the server "
                "does not have.",
                Unit.REQUESTS_PER_SECOND,
                (f"{q.rate(m.RPC_STARTED, by='grpc_method')} > 0", "{{grpc_method}}"),
                stack=True,
            ),
            graph(
                "Calls ended, by code",
                "RPCs per second by the status they ended with. Codes that do not occur are left out.",
                Unit.REQUESTS_PER_SECOND,
                (f"{q.rate(m.RPC_HANDLED, by='grpc_code')} > 0", "{{grpc_code}}"),
                stack=True,
                colors={"OK": "green", "Canceled": "blue", "Internal": "red", "Unknown": "dark-red"},
                alerts=["RejectRate"],
            ),
            graph(
                "Calls, p95",
                "95 % of the calls took at most this long. GenerateImage and RenderImage last as long as their "
                "generation.",
                Unit.SECONDS,
                (q.quantile(0.95, m.RPC_SECONDS, by="grpc_method"), "{{grpc_method}}"),
            ),
            graph(
                "Messages",
                "Messages per second received from callers and sent to them.",
                Unit.PER_SECOND,
                (q.rate(m.RPC_RECEIVED), "received"),
                (q.rate(m.RPC_SENT), "sent"),
                width=12,
            ),
            graph(
                "Calls open",
                "RPCs that arrived and have not ended.",
                Unit.COUNT,
                (f"{q.total(m.RPC_STARTED)} - {q.total(m.RPC_HANDLED)}", "open"),
                width=12,
            ),
        ],
    )
