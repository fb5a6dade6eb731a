"""The row of *Service* about the HTTP edge: Envoy's own figures, which come from a job of their own."""

from __future__ import annotations

from typing import Final

from dashboards.frame import Row
from dashboards.panels import BAD, Unit, graph

_TARGETS: Final = 'job=~"(.+/)?imagegen-http"'
"""Every Envoy: the dashboard's variables choose among servers."""
_SERVERS: Final = 'envoy_cluster_name=~"imagegen|images"'


def edge() -> Row:
    """Returns the row of the HTTP edge: calls, those that reach no server, and the servers that it sees."""
    return Row(
        title="HTTP edge",
        panels=[
            graph(
                "HTTP calls, by status class",
                "Calls of the edge's port per second, by class of the HTTP status. gRPC calls have 200 whatever "
                "becomes of them. Empty without an Envoy that Prometheus scrapes.",
                Unit.REQUESTS_PER_SECOND,
                (
                    _rate("envoy_http_downstream_rq_xx", 'envoy_http_conn_manager_prefix="http"'),
                    "{{envoy_response_code_class}}xx",
                ),
                stack=True,
                colors={"2xx": "green", "4xx": "orange", "5xx": BAD},
                alerts=["HttpDown"],
            ),
            graph(
                "Calls that reach no server",
                "Calls per second that Envoy could not bring to a server: none was healthy, or the connection broke. "
                "No server counts these. imagegen: generations and other calls; images: fetches of kept images.",
                Unit.REQUESTS_PER_SECOND,
                (
                    _rate(
                        "envoy_cluster_upstream_rq_xx",
                        _SERVERS,
                        'envoy_response_code_class="5"',
                        by="envoy_cluster_name",
                    ),
                    "{{envoy_cluster_name}}",
                ),
                alerts=["HttpErrors"],
            ),
            graph(
                "Servers behind it",
                "Servers that Envoy knows, and those of them to which it sends calls: they say that they serve.",
                Unit.COUNT,
                (f'min(envoy_cluster_membership_healthy{{{_TARGETS},envoy_cluster_name="imagegen"}})', "healthy"),
                (f'max(envoy_cluster_membership_total{{{_TARGETS},envoy_cluster_name="imagegen"}})', "known"),
                alerts=["HttpErrors"],
            ),
        ],
    )


def _rate(counter: str, *matchers: str, by: str = "envoy_response_code_class") -> str:
    return f"sum by ({by}) (rate({counter}{{{','.join((_TARGETS, *matchers))}}}[$__rate_interval]))"
