"""Settings of metrics, logs, GPU readings and traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from imagegen_server.settings.group import Group
from imagegen_server.settings.values import Port, off


class TelemetrySettings(Group):
    """Metrics, logs and traces"""

    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="Address to serve /metrics, /healthz and /livez on."
    )
    metrics_port: Annotated[Port | None, BeforeValidator(off)] = Field(
        9464, description="Port of /metrics, /healthz and /livez; 0 takes a free one, none turns them off."
    )
    metrics_token_file: Path | None = Field(
        None, description="File with a bearer token that scrapes of /metrics must show; anybody may scrape if unset."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level of a log line.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto is console on a terminal, JSON elsewhere."
    )
    log_prompts: bool = Field(False, description="Let prompts into the logs.")
    gpu_script: str = Field(
        "",
        description="Show simulated GPUs instead of the driver's: a JSON object with the keys that "
        "`telemetry/simulated_gpu.py` lists; `{}` is one GPU that is well.",
    )
    tracing: Literal["none", "otlp"] = Field(
        "none", description="Send a trace of every generation to an OpenTelemetry collector; needs the extra otel."
    )
    tracing_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+/?$",
        description="URL of the collector's gRPC port. OTEL_EXPORTER_OTLP_ENDPOINT if unset, else http://localhost:4317.",
    )
    tracing_sample_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Part of the traces begun here that is kept, 0 to 1; OTEL_TRACES_SAMPLER's, else all, if unset.",
    )
