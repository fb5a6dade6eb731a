"""Retries and deadlines, as gRPC is told of them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

import imagegen
from imagegen._channel import KEEPALIVE_TIME, channel_options, checked_timeout, deadline, metadata_source
from imagegen_server.api.server import MIN_PING_INTERVAL


@pytest.mark.parametrize("attempts", [2, 3, 4, 5])
def test_refusals_and_lost_connections_are_retried(attempts: int) -> None:
    """The service config asks for the attempts, on the two codes that a retry can help."""
    options = dict(channel_options("localhost:1", attempts))
    assert options["grpc.enable_retries"] == 1
    (method,) = json.loads(str(options["grpc.service_config"]))["methodConfig"]
    assert {name["service"] for name in method["name"]} == {"imagegen.v1.ImageGen", "grpc.health.v1.Health"}
    assert method["retryPolicy"] == {
        "maxAttempts": attempts,
        "initialBackoff": "0.2s",
        "maxBackoff": "5s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }


def test_one_attempt_turns_retries_off() -> None:
    """A single attempt is a single attempt."""
    assert dict(channel_options("localhost:1", 1))["grpc.enable_retries"] == 0


@pytest.mark.parametrize("attempts", [1, 4])
def test_answers_of_any_size_are_taken(attempts: int) -> None:
    """`render` may bring all images in one message, which stock channels refuse above 4 MB."""
    assert dict(channel_options("localhost:1", attempts))["grpc.max_receive_message_length"] == -1


@pytest.mark.parametrize("attempts", [1, 4])
@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("unix:/run/x", True),
        ("example.com:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_only_other_hosts_are_reached_through_a_proxy(target: str, here: bool, attempts: int) -> None:
    """What is on this host needs none, and a key that travels there in plain text is nothing for it."""
    assert dict(channel_options(target, attempts)).get("grpc.enable_http_proxy") == (0 if here else None)


@pytest.mark.parametrize("attempts", [1, 4])
def test_a_silent_connection_is_probed_as_often_as_the_server_allows(attempts: int) -> None:
    """However long the call says nothing; more often would be an offence for which the server disconnects."""
    options = dict(channel_options("localhost:1", attempts))
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"] == 20_000
    assert options["grpc.http2.max_pings_without_data"] == 0
    assert MIN_PING_INTERVAL < KEEPALIVE_TIME


@pytest.mark.parametrize("attempts", [-1, 0, 6])
@pytest.mark.parametrize("client", [imagegen.Client, imagegen.AsyncClient])
def test_attempts_beyond_grpcs_cap_are_refused(
    client: type[imagegen.Client] | type[imagegen.AsyncClient], attempts: int
) -> None:
    """gRPC would lower the number in silence; the client says so instead."""
    with pytest.raises(ValueError, match="max_attempts must be 1 to 5"):
        client("localhost:1", max_attempts=attempts)


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan])
def test_a_timeout_must_be_positive(timeout: float) -> None:
    """Zero, negative and undefined timeouts are refused, for a client and for a call."""
    with pytest.raises(ValueError, match="positive number of seconds"):
        checked_timeout(timeout)
    with pytest.raises(ValueError, match="positive number of seconds"):
        deadline(timeout, 1.0)
    with pytest.raises(ValueError, match="positive number of seconds"):
        imagegen.AsyncClient(timeout=timeout)


def test_a_call_takes_its_own_timeout_before_the_clients() -> None:
    """None asks for the default; infinity for no deadline."""
    assert deadline(None, 9.0) == 9.0
    assert deadline(2.0, 9.0) == 2.0
    assert deadline(math.inf, 9.0) is None
    assert deadline(None, math.inf) is None
    assert deadline(3.0, math.inf) == 3.0
    assert deadline(9e9, 1.0) is None  # gRPC would call it over
    assert deadline(None, 1e300) is None
    assert deadline(9e8, 1.0) == 9e8


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("x-trace", "b\n"), "the metadata of x-trace"),
        (("x-trace", "schlüssel"), "the metadata of x-trace"),
        (("x-trace", b"\xff"), "the metadata of x-trace"),
        (("X-Trace", "b"), "the metadata key 'X-Trace'"),
        (("x trace", "b"), "the metadata key 'x trace'"),
        ((":path", "b"), "the metadata key ':path'"),
        (("", "b"), "the metadata key ''"),
    ],
)
async def test_metadata_that_no_header_can_carry_is_refused(pair: Any, said: str) -> None:
    """Before anything is sent, by both clients and for every call; the value is not shown."""
    for kind in (imagegen.Client, imagegen.AsyncClient):
        with pytest.raises(ValueError, match=said) as refused:
            kind("localhost:1", metadata=[pair])
        assert "schl" not in str(refused.value)
    with imagegen.Client("localhost:1", metadata=lambda: [pair]) as client:
        with pytest.raises(ValueError, match=said):
            client.models()
        with pytest.raises(ValueError, match=said):
            client.generate_image("a")
    async with imagegen.AsyncClient("localhost:1", metadata=lambda: [pair]) as client:
        with pytest.raises(ValueError, match=said):
            await client.models()
        with pytest.raises(ValueError, match=said):
            await client.generate_image("a")


def test_other_metadata_is_passed_on() -> None:
    """Bytes under a key that says so as well, which gRPC encodes."""
    pairs: Any = [("traceparent", "00-1"), ("x_a.b-9", ""), ("x-trace-bin", b"\xff")]
    assert metadata_source(pairs)() == tuple(pairs)
