"""Retries and deadlines, as gRPC is told of them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

import imagegen
from imagegen._channel import KEEPALIVE_TIME, Options, channel_options, checked_timeout, deadline, metadata_source
from imagegen._details import ErrorDetails
from imagegen._elsewhere import Repeats, sends_elsewhere
from imagegen._target import checked_target, ways
from imagegen.errors import ServiceUnavailableError
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


@pytest.mark.parametrize("attempts", [1, 4])
def test_one_connection_goes_to_any_address_of_a_name_and_to_the_first_of_a_list(attempts: int) -> None:
    """So that clients spread over the servers of a name; a list has an order."""
    for target, shuffled in (("dns:///there:1", True), ("there:1", True), ("ipv4:10.0.0.1:1,10.0.0.2:1", False)):
        config = json.loads(str(dict(channel_options(target, attempts))["grpc.service_config"]))
        assert config["loadBalancingConfig"] == [{"pick_first": {"shuffleAddressList": shuffled}}]


def test_a_lost_server_is_looked_for_every_few_seconds() -> None:
    """gRPC's own two minutes would let calls fail at once long after the server is back."""
    options = dict(channel_options("there:1", 4))
    assert options["grpc.max_reconnect_backoff_ms"] == 5_000
    assert options["grpc.min_reconnect_backoff_ms"] == 10_000


def test_options_of_the_caller_come_first() -> None:
    """They replace ours of the same name; a policy for balancing is not outdone by the service config."""
    given: Options = [("grpc.lb_policy_name", "round_robin"), ("grpc.max_receive_message_length", 7)]
    options = channel_options("there:1", 4, extra=given)
    assert [value for name, value in options if name == "grpc.max_receive_message_length"] == [7]
    assert dict(options)["grpc.lb_policy_name"] == "round_robin"
    config = json.loads(str(dict(options)["grpc.service_config"]))
    assert set(config) == {"methodConfig"}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://localhost:50051", "http://localhost:50051 is a URL, not HOST:PORT; say localhost:50051"),
        ("https://there:1/", "https://there:1/ is a URL, not HOST:PORT; say there:1 and tls=True"),
        ("localhost", "HOST:PORT is needed, as localhost:50051, not 'localhost'"),
        ("localhost:abc", "HOST:PORT is needed, as localhost:50051, not 'localhost:abc'"),
        ("", "HOST:PORT is needed, as localhost:50051, not ''"),
    ],
)
@pytest.mark.parametrize("client", [imagegen.Client, imagegen.AsyncClient])
def test_what_is_no_target_is_refused(
    client: type[imagegen.Client] | type[imagegen.AsyncClient], target: str, said: str
) -> None:
    """gRPC would say that nobody answers, which may be tried again for ever."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        client(target)


@pytest.mark.parametrize(
    "target",
    ["there:1", "[::1]:1", "dns:///there", "ipv4:127.0.0.1:1,127.0.0.2:1", "unix:a.sock", "xds:///a", "vsock:2:1"],
)
def test_what_grpc_resolves_in_its_own_way_is_left_to_it(target: str) -> None:
    """Every other scheme as well."""
    assert checked_target(target) == target


def test_the_ways_to_another_server() -> None:
    """Of a list every address comes first once, the one in use last; a name may stand for others by now."""
    assert ways("ipv4:a:1,b:1,c:1") == ("ipv4:b:1,c:1,a:1", "ipv4:c:1,a:1,b:1", "ipv4:a:1,b:1,c:1")
    assert set(ways("dns:///there:1")) == {"dns:///there:1"}
    assert set(ways("there:1")) == {"there:1"}


@pytest.mark.parametrize(
    ("reason", "goes"), [("DRAINING", True), ("LOADING", True), ("DEVICE_LOST", False), ("", False)]
)
def test_what_goes_to_another_server(reason: str, goes: bool) -> None:
    """What one that drains or loads does not take; what else goes wrong may have begun there, or go wrong anywhere."""
    refusal = ServiceUnavailableError("not now", details=ErrorDetails(reason=reason))
    assert sends_elsewhere(refusal) is goes


@pytest.mark.parametrize("attempts", [1, 3])
def test_as_many_attempts_are_made_as_were_asked_for(attempts: int) -> None:
    """The first, made before anybody asks for another, is one of them."""
    repeats = Repeats(None, attempts)
    assert [repeats.another() for _ in range(attempts)] == [True] * (attempts - 1) + [False]


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


def test_a_timeout_is_a_number() -> None:
    """Nothing else, which is told by its name."""
    with pytest.raises(TypeError, match=r"^timeout must be a number of seconds, not a str$"):
        imagegen.Client(timeout="5")  # type: ignore[arg-type]


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
