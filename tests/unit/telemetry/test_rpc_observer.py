"""The edge's events as metrics and log lines."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import structlog
from structlog.testing import CapturingLogger

from imagegen_server import core
from imagegen_server.api import observers
from imagegen_server.telemetry import EdgeListener, LogObserver, Metrics, MetricsObserver, RpcMetrics
from imagegen_server.telemetry.closed_sets import RPC_CODES

Value = Callable[..., float | None]

GENERATE = core.RpcMethod(type="server_stream", service="imagegen.v1.ImageGen", method="GenerateImage")
LABELS = {"grpc_type": "server_stream", "grpc_service": "imagegen.v1.ImageGen", "grpc_method": "GenerateImage"}
OTHER_LABELS = {"grpc_type": "bidi_stream", "grpc_service": "_OTHER", "grpc_method": "_OTHER"}


def test_a_call_from_start_to_end(metrics: Metrics, value: Value) -> None:
    """Arrival, messages, status and duration of a call are counted under its method."""
    rpc = RpcMetrics(metrics)
    rpc.started(GENERATE, ())
    rpc.msg_received(GENERATE)
    rpc.msg_sent(GENERATE)
    rpc.msg_sent(GENERATE)
    rpc.handled(GENERATE, grpc.StatusCode.RESOURCE_EXHAUSTED, 0.75)
    assert value("grpc_server_started_total", **LABELS) == 1
    assert value("grpc_server_msg_received_total", **LABELS) == 1
    assert value("grpc_server_msg_sent_total", **LABELS) == 2
    assert value("grpc_server_handled_total", grpc_code="ResourceExhausted", **LABELS) == 1
    assert value("grpc_server_handled_total", grpc_code="OK", **LABELS) == 0
    assert value("grpc_server_handling_seconds_sum", **LABELS) == 0.75
    assert value("grpc_server_handling_seconds_bucket", le="0.5", **LABELS) == 0
    assert value("grpc_server_handling_seconds_bucket", le="1.0", **LABELS) == 1


def test_methods_that_are_not_served_share_a_series(metrics: Metrics, value: Value) -> None:
    """The edge's `_OTHER`, and any method that was not announced, count as `_OTHER`."""
    rpc = RpcMetrics(metrics)
    for method in (observers.OTHER, core.RpcMethod(type="unary", service="a", method="b")):
        rpc.started(method, ())
        rpc.handled(method, grpc.StatusCode.UNIMPLEMENTED, 0.0)
    assert value("grpc_server_started_total", **OTHER_LABELS) == 2
    assert value("grpc_server_handled_total", grpc_code="Unimplemented", **OTHER_LABELS) == 2


def test_every_status_code_has_its_label(metrics: Metrics, value: Value) -> None:
    """The codes are gRPC's, all of them, each with a label of its own."""
    assert set(RPC_CODES) == {code.name for code in grpc.StatusCode}
    rpc = RpcMetrics(metrics)
    for code in grpc.StatusCode:
        rpc.handled(GENERATE, code, 0.0)
    for label in RPC_CODES.values():
        assert value("grpc_server_handled_total", grpc_code=label, **LABELS) == 1


def test_the_edges_own_events(metrics: Metrics, value: Value) -> None:
    """Refusals and slow readers are counted; a bug is logged without its text, which may hold a prompt."""
    capture = CapturingLogger()
    log = LogObserver(structlog.wrap_logger(capture, processors=[]))
    edge = EdgeListener(metrics, MetricsObserver(metrics, "shapes"), log)
    edge.rejected(core.Refusal(request_id="r", model="nonsense", reason=core.RejectReason.INVALID))
    edge.write_stalled(2.0)
    prompt = "a secret castle"
    try:
        raise ValueError(prompt)
    except ValueError as error:
        edge.bug("GenerateImage", "r-9", error)
    assert value("imagegen_rejected_total", reason="invalid") == 1
    assert value("imagegen_stream_write_stall_seconds_sum") == 2
    (call,) = capture.calls
    assert (call.method_name, call.kwargs["event"], call.kwargs["request_id"]) == ("error", "bug", "r-9")
    assert call.kwargs["error"] == "ValueError"
    assert "test_rpc_observer.py" in call.kwargs["traceback"]
    assert prompt not in str(call)
