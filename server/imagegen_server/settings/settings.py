"""All groups together, and what must hold between their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from imagegen_server.settings.auth import AuthSettings
from imagegen_server.settings.group import Group
from imagegen_server.settings.limits import LimitSettings
from imagegen_server.settings.model import ModelSettings
from imagegen_server.settings.serving import ApiSettings
from imagegen_server.settings.store import StoreSettings
from imagegen_server.settings.telemetry import TelemetrySettings
from imagegen_server.settings.work import RecallSettings, WorkSettings

GROUPS: tuple[type[Group], ...] = (
    ApiSettings,
    AuthSettings,
    ModelSettings,
    WorkSettings,
    RecallSettings,
    LimitSettings,
    StoreSettings,
    TelemetrySettings,
)


class Settings(
    TelemetrySettings,
    StoreSettings,
    LimitSettings,
    RecallSettings,
    WorkSettings,
    ModelSettings,
    AuthSettings,
    ApiSettings,
):
    """Everything that an operator can choose."""

    command: Literal["serve", "doctor", "tune"] = Field("serve", description="What to do.")

    @property
    def certificates_identify(self) -> bool:
        """Whether a client's certificate says who calls."""
        return self.tls_client_ca is not None and self.tls_client_identity

    @property
    def authenticates(self) -> bool:
        """Whether callers can be told apart."""
        return self.api_keys is not None or self.jwt_keys is not None or self.certificates_identify

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_certificate") is None):
            raise ValueError("needs --tls-certificate, and the other way round")
        return value

    @field_validator("jwt_issuer", "jwt_audience")
    @classmethod
    def _with_keys(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (value is None) != (info.data.get("jwt_keys") is None):
            raise ValueError("is needed with --jwt-keys, and only then")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certificate") is None:
            raise ValueError("needs --tls-certificate and --tls-key")
        return value

    @field_validator("health_port")
    @classmethod
    def _not_the_main_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and value == info.data.get("port"):
            raise ValueError("is the gRPC port")
        return value

    @field_validator("metrics_port")
    @classmethod
    def _another_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and value == info.data.get("port") and info.data.get("metrics_host") == info.data.get("host"):
            raise ValueError("is the gRPC port")
        return value
