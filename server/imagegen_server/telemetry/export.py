"""How sending spans begins: with an extra that few servers have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imagegen_server.errors import StartupError

if TYPE_CHECKING:
    from imagegen_server.telemetry.logs import Warn
    from imagegen_server.telemetry.otlp import OtlpExport

_INSTALL: Final = "pip install '.[server,otel]' in a checkout of ImageGen"


def open_export(*, endpoint: str | None, sample_ratio: float | None, version: str, warn: Warn) -> OtlpExport:
    """Begins to send spans to an OTLP collector, and imports what that needs.

    Args:
        endpoint: URL of the collector's gRPC port; None leaves it to the SDK's own variables.
        sample_ratio: part of the traces begun here that are kept, 0 to 1; None leaves it to the SDK's own variables.
        version: of this server.
        warn: hears what goes wrong, as an event and its fields.

    Raises StartupError if the extra is not installed, or if one of the SDK's variables is wrong.
    """
    try:
        from imagegen_server.telemetry.otlp import OtlpExport  # noqa: PLC0415 - an extra that few servers have
    except ImportError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise StartupError(f"tracing needs an extra that is not installed: {_INSTALL}") from error
    try:
        return OtlpExport(endpoint=endpoint, sample_ratio=sample_ratio, version=version, warn=warn)
    except (OSError, ValueError) as error:
        raise StartupError(f"tracing cannot start, check the OTEL_* variables: {error}") from error
