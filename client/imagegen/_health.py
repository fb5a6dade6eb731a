"""grpc.health.v1, as far as a client asks it: whether the ImageGen service is serving. Pure."""

from __future__ import annotations

from typing import Final

import grpc

from imagegen._wire import message_class

HEALTH_METHOD: Final = "/grpc.health.v1.Health/Check"
"""Full name of the call."""

SERVICE: Final = "imagegen.v1.ImageGen"
"""Whose health is asked for."""

NOT_SERVING_CODES: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND}
)
"""Failures of the check itself that mean the same as NOT_SERVING: nobody answers, or not for this service."""

_SERVING: Final = 1  # HealthCheckResponse.ServingStatus.SERVING


def encode_check(service: str) -> bytes:
    """Returns a serialized HealthCheckRequest."""
    data: bytes = message_class("HealthCheckRequest")(service=service).SerializeToString()
    return data


def decode_check(data: bytes) -> bool:
    """Returns whether a serialized HealthCheckResponse says SERVING."""
    return bool(message_class("HealthCheckResponse").FromString(data).status == _SERVING)
