"""What both clients share about their connections: options, retries, metadata and deadlines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Final, TypeAlias

import grpc

from imagegen._access import Access, is_sendable, is_this_host
from imagegen._target import checked_target, is_list, ways

Metadata: TypeAlias = Sequence[tuple[str, str]]
"""Lower-case keys and their values, in order."""

Options: TypeAlias = Sequence[tuple[str, str | int]]
"""gRPC's channel arguments: names and values."""

DEFAULT_TIMEOUT: Final = 600.0
"""Seconds that a generation may take, its time in the queue included."""

UNARY_TIMEOUT: Final = 10.0
"""Seconds that any other call may take."""

LONGEST_DEADLINE: Final = 1e9
"""Seconds, about 30 years; more is no deadline. gRPC's clock would overflow, and the time be up at once."""

DEFAULT_MAX_ATTEMPTS: Final = 4
"""Attempts of one call, the first included."""

MAX_ATTEMPTS: Final = 5
"""gRPC itself caps `maxAttempts` here (gRFC A6, client retries)."""

KEEPALIVE_TIME: Final = 30.0
"""Seconds of silence in a call after which the connection is probed. The server disconnects who probes it more often
than every 10 s (`MIN_PING_INTERVAL`)."""

KEEPALIVE_TIMEOUT: Final = 20.0
"""Seconds after which an unanswered probe means that the connection is lost; gRPC's own default. On a slow line the
answer comes after what is on its way already."""

LONGEST_BACKOFF: Final = 5.0
"""Seconds between two attempts to connect, at most. gRPC's own two minutes would outlast the outage, and calls that are
made meanwhile fail at once."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that an attempt to connect may take."""

_METADATA_KEY: Final = re.compile(r"[0-9a-z_.-]+")
"""What gRPC takes as a key (`grpc_header_key_is_legal`)."""

_SERVICES: Final = ("imagegen.v1.ImageGen", "grpc.health.v1.Health")


@dataclass(kw_only=True, frozen=True, slots=True)
class Connection:
    """How a client reaches a server, and what it shows there."""

    target: str
    """host:port or another target of gRPC."""
    options: Options
    """Of the channel."""
    credentials: grpc.ChannelCredentials | None
    """None: the connection is plain text."""
    metadata: Callable[[], tuple[tuple[str, str], ...]]
    """Returns what accompanies a call; asked at the beginning of each."""
    max_attempts: int
    """Attempts of one call, the first included."""

    def others(self, left: str) -> Iterator[Connection]:
        """Yields connections of which one may lead elsewhere than that to the target `left`, in the order to try."""
        # of their own: channels to one target share a connection otherwise
        options = (*self.options, ("grpc.use_local_subchannel_pool", 1))
        for target in ways(left):
            yield replace(self, target=target, options=options)


def connection(
    target: str,
    access: Access,
    *,
    metadata: Metadata | Callable[[], Metadata],
    max_attempts: int,
    options: Options,
) -> Connection:
    """Returns what both clients make of their arguments. Raises ValueError for those that cannot be used."""
    return Connection(
        target=checked_target(target),
        options=channel_options(target, max_attempts, extra=(*access.channel_options(), *options)),
        credentials=access.channel_credentials(target),
        metadata=metadata_source(metadata, access),
        max_attempts=max_attempts,
    )


def metadata_source(
    metadata: Metadata | Callable[[], Metadata], access: Access | None = None
) -> Callable[[], tuple[tuple[str, str], ...]]:
    """Returns a function that gives the metadata of the next call: always the same, or what `metadata` returns.

    What shows who calls is added to it. Raises ValueError for what no header can carry: at once, or of what `metadata`
    returns, with the call.
    """
    shown = Access() if access is None else access
    if callable(metadata):
        source = metadata
        return lambda: (*_checked_metadata(source()), *shown.metadata())
    fixed = _checked_metadata(metadata)
    return lambda: (*fixed, *shown.metadata())


def _checked_metadata(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    pairs = tuple(metadata)
    for key, value in pairs:
        if not _METADATA_KEY.fullmatch(key):
            raise ValueError(f"the metadata key {key!r} must consist of a to z, 0 to 9, '-', '_' and '.'")
        text = value.decode("latin-1") if isinstance(value, bytes) else value  # grpc takes both
        if not key.endswith("-bin") and isinstance(text, str) and not is_sendable(text):
            raise ValueError(f"the metadata of {key} must be printable ASCII, without a line's end")
    return pairs


def channel_options(
    target: str,
    max_attempts: int,
    *,
    keepalive_time: float = KEEPALIVE_TIME,
    keepalive_timeout: float = KEEPALIVE_TIMEOUT,
    extra: Options = (),
) -> list[tuple[str, str | int]]:
    """Returns the options of a channel that takes answers of any size and attempts calls up to `max_attempts` times.

    Those of `extra` come last, and replace ours of the same name.

    A target on this host is reached without the proxy that the environment may name for HTTP, which would read along.

    gRPC retries only while nothing has arrived, which a refusal by the server guarantees, and waits as long as the
    server's `grpc-retry-pushback-ms` says, else between 0.2 s and 5 s with exponential backoff; if that is negative, it
    does not retry. A rendering sends nothing before its result, so one whose connection broke until then is asked for
    again. All attempts carry the same request id. Raises ValueError for a number outside 1 to 5.

    A channel has one connection: to the first address of a list that answers, or to any that a name stands for, so that
    clients of one name spread over its servers.

    A connection that says nothing for `keepalive_time` seconds while a call waits is probed, and given up after
    `keepalive_timeout` more without an answer: a network that forwards nothing any more closes nothing either.
    """
    if not 1 <= max_attempts <= MAX_ATTEMPTS:
        raise ValueError(f"max_attempts must be 1 to {MAX_ATTEMPTS}, not {max_attempts}")
    options: dict[str, str | int] = {
        "grpc.max_receive_message_length": -1,  # a rendering's images
        "grpc.keepalive_time_ms": round(keepalive_time * 1000),
        "grpc.keepalive_timeout_ms": round(keepalive_timeout * 1000),
        # of gRPC's own probes as well, and what decides where it is longer: gRPC 1.8x never sets the shorter time
        "grpc.http2.ping_timeout_ms": round(keepalive_timeout * 1000),
        "grpc.http2.max_pings_without_data": 0,  # no limit: a client that waits sends nothing else
        "grpc.max_reconnect_backoff_ms": round(LONGEST_BACKOFF * 1000),
        "grpc.min_reconnect_backoff_ms": round(CONNECT_TIMEOUT * 1000),
        "grpc.enable_retries": int(max_attempts > 1),
    }
    if is_this_host(target):
        options["grpc.enable_http_proxy"] = 0
    given = dict(extra)
    config: dict[str, Any] = {}
    if max_attempts > 1:
        config["methodConfig"] = [_retries(max_attempts)]
    if "grpc.lb_policy_name" not in given:  # which a policy of the service config would outdo
        config["loadBalancingConfig"] = [{"pick_first": {"shuffleAddressList": not is_list(target)}}]
    options["grpc.service_config"] = json.dumps(config)
    return list((options | given).items())


def _retries(max_attempts: int) -> dict[str, Any]:
    policy = {
        "maxAttempts": max_attempts,
        "initialBackoff": "0.2s",
        "maxBackoff": "5s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    return {"name": [{"service": service} for service in _SERVICES], "retryPolicy": policy}


def checked_timeout(timeout: float) -> float:
    """Returns a positive number of seconds, or infinity; ValueError or TypeError for anything else."""
    if not isinstance(timeout, Real):
        raise TypeError(f"timeout must be a number of seconds, not a {type(timeout).__name__}")
    if not timeout > 0:  # NaN as well
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
    return timeout


def deadline(timeout: float | None, default: float) -> float | None:
    """Returns the seconds that gRPC is given: `timeout`, else `default`; None, no deadline, from `LONGEST_DEADLINE` on.

    Raises ValueError for a timeout that is not positive.
    """
    seconds = default if timeout is None else checked_timeout(timeout)
    return None if seconds >= LONGEST_DEADLINE else seconds
