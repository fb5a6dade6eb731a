"""What the gRPC edge reports, as metrics and log lines.

The classes have the methods of the edge's RpcObserver and EdgeObserver protocols, by shape: this room does not know
the edge, nor gRPC.
"""

from __future__ import annotations

from typing import Protocol

from imagegen_server.core import AuthFailure, EngineObserver, Metadata, Refusal, RpcMethod
from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.instruments import Metrics
from imagegen_server.telemetry.log_observer import LogObserver


class StatusCode(Protocol):
    """A gRPC status code."""

    @property
    def name(self) -> str:
        """As in the gRPC specification: INVALID_ARGUMENT."""
        ...


class RpcEvents:
    """Hears of the calls and does nothing; listeners override what they need. See the edge's RpcObserver."""

    def started(self, method: RpcMethod, metadata: Metadata) -> None:
        """A call reached its handler."""

    def msg_received(self, method: RpcMethod) -> None:
        """A message of the caller was received."""

    def msg_sent(self, method: RpcMethod) -> None:
        """A message was written to the caller."""

    def handled(self, method: RpcMethod, code: StatusCode, seconds: float) -> None:
        """A call ended."""


class RpcMetrics(RpcEvents):
    """Turns calls into the grpc_server_* metrics. Thread-safe."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._sent = {labels: metrics.counter(m.RPC_SENT, *labels) for labels in metrics.methods}
        """Of the methods that there are: a message comes with every step."""

    def started(self, method: RpcMethod, metadata: Metadata) -> None:
        """Counts a call that reached its handler."""
        self._metrics.counter(m.RPC_STARTED, *self._labels(method)).inc()

    def msg_received(self, method: RpcMethod) -> None:
        """Counts a message of the caller."""
        self._metrics.counter(m.RPC_RECEIVED, *self._labels(method)).inc()

    def msg_sent(self, method: RpcMethod) -> None:
        """Counts a message to the caller."""
        sent = self._sent.get((method.type, method.service, method.method))
        if sent is None:
            sent = self._metrics.counter(m.RPC_SENT, *self._labels(method))
        sent.inc()

    def handled(self, method: RpcMethod, code: StatusCode, seconds: float) -> None:
        """Counts the end of a call and observes its duration; a code that gRPC does not define counts as Unknown."""
        labels = self._labels(method)
        self._metrics.counter(m.RPC_HANDLED, *labels, closed_sets.RPC_CODES.get(code.name, "Unknown")).inc()
        self._metrics.histogram(m.RPC_SECONDS, *labels).observe(seconds)

    def _labels(self, method: RpcMethod) -> tuple[str, str, str]:
        return self._metrics.rpc(method.type, method.service, method.method)


class EdgeListener:
    """Turns what only the edge can see into metrics and log lines. Thread-safe."""

    def __init__(self, metrics: Metrics, events: EngineObserver, log: LogObserver) -> None:
        """Args: metrics; who hears refusals, as from the engine; who logs bugs."""
        self._metrics = metrics
        self._events = events
        self._log = log

    def rejected(self, refusal: Refusal) -> None:
        """Passes a refusal on."""
        self._events.rejected(refusal)

    def auth_failed(self, failure: AuthFailure) -> None:
        """Counts a call that was refused for its credentials, and logs why."""
        self._metrics.auth_failed(failure.reason)
        self._log.auth_failed(failure)

    def write_stalled(self, seconds: float) -> None:
        """Observes how long a message waited for a slow reader."""
        self._metrics.write_stalled(seconds)

    def bug(self, method: str, request_id: str, error: BaseException) -> None:
        """Logs what a handler raised."""
        self._log.bug(method, request_id, error)
