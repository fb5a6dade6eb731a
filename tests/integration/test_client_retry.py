"""Retries, as a real gRPC channel performs them by the client's service config."""

from __future__ import annotations

import math
from collections.abc import Iterator

import grpc
import pytest

from imagegen import AsyncClient, Client, errors
from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.errors import QuotaExceeded, QuotaReason
from support import messages
from support.edge import running_edge
from support.scripted_service import Refusing, ScriptedService, error_info, refuse


@pytest.mark.parametrize(
    ("code", "reason"),
    [(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"), (grpc.StatusCode.UNAVAILABLE, "LOADING")],
)
@pytest.mark.parametrize("pushback", [None, 1])
def test_a_refusal_for_now_is_retried_with_the_same_id(
    service: ScriptedService, code: grpc.StatusCode, reason: str, pushback: int | None
) -> None:
    """Attempts go on until one is taken, and all of them name the same generation."""
    service.script = Refusing(2, code, reason, pushback)
    with Client(service.target, max_attempts=3) as client:
        image = client.generate_image("a")
    assert [request.request_id for request in service.requests] == [image.request_id] * 3
    assert [metadata.get("grpc-previous-rpc-attempts") for metadata in service.metadata] == [None, "1", "2"]


@pytest.mark.parametrize(
    ("attempts", "pushback", "expected"), [(2, 1, 2), (1, 1, 1), (4, -1, 1)], ids=["spent", "single", "told not to"]
)
def test_retries_end(service: ScriptedService, attempts: int, pushback: int, expected: int) -> None:
    """The last refusal is raised when the attempts are spent or the server forbids more by a negative pushback."""
    service.script = Refusing(10, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback)
    with Client(service.target, max_attempts=attempts) as client, pytest.raises(errors.QueueFullError):
        client.generate_image("a")
    assert len(service.requests) == expected


def test_other_failures_are_not_retried(service: ScriptedService) -> None:
    """A request that is wrong stays wrong."""
    service.script = Refusing(1, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", None)
    with Client(service.target) as client, pytest.raises(errors.InvalidRequestError):
        client.generate_image("a")
    assert len(service.requests) == 1


def test_a_generation_that_has_begun_is_not_retried(service: ScriptedService) -> None:
    """After the first message no attempt is repeated, whatever the failure."""

    def script(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        yield messages.accepted(request)
        refuse(context, grpc.StatusCode.UNAVAILABLE, "device lost", error_info("DEVICE_LOST"))

    service.script = script
    with Client(service.target) as client, pytest.raises(errors.ServiceUnavailableError, match="device lost"):
        client.generate_image("a")
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("seconds", "wait", "attempts"),
    [(30.0, 3600.0, 1), (30.0, 31.0, 1), (math.inf, 100.0, 1), (30.0, 0.01, 2), (math.inf, 0.01, 2)],
)
async def test_a_wait_that_is_too_long_is_told_not_sat_out(seconds: float, wait: float, attempts: int) -> None:
    """The server forbids a retry after the deadline, or after a minute without one; the caller learns why, and when."""
    async with running_edge() as edge:
        edge.engine.raises = QuotaExceeded(QuotaReason.TENANT_STEP_RATE, "the steps are used up", wait)
        async with AsyncClient(f"127.0.0.1:{edge.port}", max_attempts=2, timeout=seconds) as client:
            with pytest.raises(errors.ResourceExhaustedError) as caught:
                await client.generate_image("a cat")
        assert caught.value.details.reason == "TENANT_STEP_RATE"
        assert caught.value.details.retry_after == wait
        assert edge.seen.count("started") == attempts
