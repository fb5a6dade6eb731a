"""SIGTERM under load: what runs completes, what waits is sent elsewhere, and the process leaves in order."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.app import CLOSE_GRACE
from support import wire
from support.live_server import LiveServer, live_server, open_channel
from support.load import Ended, generate, request, size, slow_steps
from support.waiting import eventually, until

RUNNING, CALLERS = 3, 9
ARGUMENTS = ("--max-running", str(RUNNING), "--grace-period", "60", "--fake-script", '{"evaluation": 0.02}')


def is_closed(port: int) -> bool:
    """Returns whether nothing accepts connections on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def running_at(server: LiveServer, event: str) -> set[str]:
    """Returns the generations that were on the device, or behind it, when a line was logged."""
    running: set[str] = set()
    for line in server.log():
        if line["event"] == event:
            return running
        if line["event"] == "stage ended" and line["stage"] == "queued" and line["outcome"] == "ok":
            running.add(line["request_id"])
        elif line["event"] == "ended":
            running.discard(line["request_id"])
    raise AssertionError(f"{event} was not logged")


def check_drained(server: LiveServer, results: dict[str, Ended]) -> tuple[int, int]:
    """Checks how every call ended; returns how many were running and how many waited at the signal."""
    running = running_at(server, "signal")
    for request_id, ended in results.items():
        if request_id in running:
            assert ended.ok, (request_id, ended.code, ended.details)
        elif not ended.ok:
            assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING"), ended.details
            assert ended.retry_after is not None
            assert ended.pushback_ms is not None
    queued = [name for name, ended in results.items() if ended.accepted and not ended.ok]
    return len(running), len(queued)


def test_nothing_that_runs_is_lost(tmp_path: Path, figures: dict[str, object]) -> None:
    """However often, and at whatever moment, SIGTERM comes: running generations complete and the status is 0."""
    rng = random.Random(8)
    running = queued = 0
    for round_ in range(size(3, 20)):
        with live_server(tmp_path, *ARGUMENTS) as server, ThreadPoolExecutor(CALLERS) as callers:
            with open_channel(server.address) as channel:
                calls: dict[str, Future[Ended]] = {}
                for number in range(CALLERS):
                    name = f"{round_}-{number}"
                    message = request(request_id=name, refiner_steps=8, num_images=1 + number % 2)
                    calls[name] = callers.submit(generate, channel, message)
                eventually(lambda: len(running_now(server)) == RUNNING, "the device is not full")
                time.sleep(rng.uniform(0, 1.2))
                server.terminate()
                results = {name: call.result() for name, call in calls.items()}
            assert server.wait() == 0, server.raw_log()
            counts = check_drained(server, results)
            running, queued = running + counts[0], queued + counts[1]
            assert is_closed(server.port)
            assert is_closed(server.metrics_port)
    figures["running_at_the_signal_and_completed"], figures["queued_and_sent_elsewhere"] = running, queued
    assert running > 0
    assert queued > 0


def running_now(server: LiveServer) -> set[str]:
    """Returns the generations that began and have not ended."""
    began = {line["request_id"] for line in server.log("stage ended") if line["stage"] == "queued"}
    return began - {line["request_id"] for line in server.log("ended")}


def test_a_draining_server_says_so(tmp_path: Path) -> None:
    """While the last generation runs: health and /healthz are NOT_SERVING, the gauge is 1, new calls are refused."""
    with live_server(tmp_path, *ARGUMENTS) as server, open_channel(server.address) as channel:
        results: list[Ended] = []
        last = threading.Thread(target=lambda: results.append(generate(channel, request("a {base:stall=2@5}"))))
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        last.start()
        eventually(lambda: bool(running_now(server)), "nothing runs")
        server.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refused = generate(channel, request())
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert not refused.accepted
        assert refused.retry_after is not None
        assert refused.pushback_ms is not None
        samples = server.metrics()
        assert samples.total("imagegen_draining") == 1
        assert samples.total("imagegen_rejected_total", reason="draining") == 1
        assert samples.total("imagegen_requests_in_flight") == 1
        last.join()
        assert results[0].ok
        assert server.wait() == 0


def test_the_grace_period_ends(tmp_path: Path) -> None:
    """A generation that outlasts the grace period ends UNAVAILABLE with RetryInfo, and the status is still 0."""
    arguments = ("--grace-period", "0.3")
    with live_server(tmp_path, *arguments) as server, open_channel(server.address) as channel:
        with ThreadPoolExecutor(1) as callers:
            call = callers.submit(generate, channel, request(slow_steps(0.2, base=100), num_inference_steps=100))
            eventually(lambda: bool(running_now(server)), "nothing runs")
            server.terminate()
            ended = call.result()
        assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert ended.retry_after is not None
        assert server.wait() == 0
        assert [line["running"] for line in server.log("grace period over")] == [1]


@pytest.mark.parametrize("on_disconnect", [pb.ON_DISCONNECT_STOP, pb.ON_DISCONNECT_CONTINUE])
async def test_an_answer_that_is_read_slowly_arrives(tmp_path: Path, on_disconnect: pb.OnDisconnect) -> None:
    """RenderImage's one answer is waited for as long as a stream's messages, not for the last seconds of all calls."""
    with live_server(tmp_path, "--grace-period", "60") as server:
        generation = request("{noise}", width=1024, height=1024, on_disconnect=on_disconnect)
        rendering = pb.RenderImageRequest(generation=generation, include_image_data=True)
        path = b"/imagegen.v1.ImageGen/RenderImage"
        reader, writer = await wire.begin(server.port, path, rendering.SerializeToString())
        await until(lambda: any(line["stage"] == "image_encode" for line in server.log("stage ended")))
        server.terminate()
        await until(lambda: bool(server.log("draining")))
        await asyncio.sleep(2 * CLOSE_GRACE)
        wire.widen(writer, 2**25)
        frames = await wire.rest(reader, writer)
        body = b"".join(frame.payload for frame in frames if frame.type == wire.DATA)
        (image,) = pb.RenderImageResponse.FromString(body[5:]).images
        assert len(image.data) == image.summary.size_bytes > 3 * 1024 * 1024
        assert await asyncio.to_thread(server.wait) == 0
        assert [line["outcome"] for line in server.log("ended")] == ["ok"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """Either signal ends it with status 0, whatever idle connections and health watches are open."""
    with live_server(tmp_path, *ARGUMENTS) as server, open_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(number)
        assert server.wait() == 0
        watch.cancel()


def test_a_second_signal_ends_it_without_waiting(tmp_path: Path) -> None:
    """Who is in a hurry gets the status of a process that was killed by the signal."""
    with (
        live_server(tmp_path, *ARGUMENTS) as server,
        open_channel(server.address) as channel,
        ThreadPoolExecutor(1) as callers,
    ):
        call = callers.submit(generate, channel, request("a {base:stall=30@5}"))
        eventually(lambda: bool(running_now(server)), "nothing runs")
        server.terminate()
        eventually(lambda: bool(server.log("draining")), "it does not drain")
        server.terminate()
        assert server.wait() == 128 + signal.SIGTERM
        assert call.result().code is grpc.StatusCode.UNAVAILABLE
