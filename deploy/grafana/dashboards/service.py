"""The dashboard *Service*: from what callers notice, at the top, to what explains it."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from dashboards import (
    frame,
    service_edge,
    service_http,
    service_now,
    service_objectives,
    service_servers,
    service_store,
    service_trouble,
    service_work,
)


def dashboard() -> models.Dashboard:
    """Returns the dashboard."""
    return frame.build(
        "imagegen-service",
        "ImageGen / Service",
        "What callers get, how long it takes, and what holds it up.",
        [
            service_now.now(),
            service_now.generations(),
            service_objectives.objectives(),
            service_work.stages(),
            service_work.steps(),
            service_work.queue(),
            service_trouble.fallbacks(),
            service_trouble.stopped(),
            service_trouble.cost(),
            service_edge.delivery(),
            service_store.kept(),
            service_edge.calls(),
            service_http.edge(),
            service_servers.servers(),
        ],
    )
