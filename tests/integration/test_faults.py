"""Faults of the device against a real server: what is saved, what fails, and whether every witness says the same."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from support.live_server import LiveServer, live_server, open_channel
from support.load import Ended, generate, request, size, slow_steps
from support.waiting import eventually

NO_FALLBACKS = pb.FallbackPolicy()

REFINER_FAULTS = [
    ("oom", "{refiner:oom}"),
    ("oom", "{refiner:oom@3}"),
    ("nan", "{refiner:nan}"),
    ("nan", "{refiner:nan@3}"),
    ("error", "{refiner:error}"),
    ("error", "{refiner:error@2}"),
]
REASONS = {
    "oom": pb.FALLBACK_REASON_OOM,
    "nan": pb.FALLBACK_REASON_NAN,
    "error": pb.FALLBACK_REASON_ERROR,
    "deadline": pb.FALLBACK_REASON_DEADLINE,
    "not_loaded": pb.FALLBACK_REASON_NOT_LOADED,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that survives every fault in this file but a lost device."""
    with live_server(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture
def channel(server: LiveServer) -> Iterator[grpc.Channel]:
    """A connection to it."""
    with open_channel(server.address) as connected:
        yield connected


def check_degraded(server: LiveServer, ended: Ended, reason: str, counted_before: float) -> None:
    """Checks that an unrefined image came and that event, result, counter and log line agree on why."""
    assert ended.ok, (ended.code, ended.details)
    (event,) = ended.of("fallback")
    (completed,) = ended.of("completed")
    (header,) = ended.of("image_header")
    assert len(ended.files[0]) == header.size_bytes
    assert (event.reason, event.kind) == (REASONS[reason], pb.FALLBACK_KIND_REFINER_TO_BASE)
    assert (event.from_stage, event.to_stage) == (pb.STAGE_REFINER, pb.STAGE_BASE)
    assert list(completed.fallbacks) == [event]
    assert not header.refined
    assert not completed.images[0].refined
    labels = {"from": "refiner", "to": "base", "reason": reason}
    assert server.metrics().total("imagegen_fallbacks_total", **labels) == counted_before + 1
    request_id = ended.events[0].request_id
    (line,) = [line for line in server.log("fallback") if line["request_id"] == request_id]
    assert (line["from_stage"], line["to_stage"], line["reason"]) == ("refiner", "base", reason)
    assert line["level"] == "warning"

    def outcome() -> list[str]:
        return [line["outcome"] for line in server.log("ended") if line["request_id"] == request_id]

    eventually(lambda: outcome() == ["degraded"], lambda: f"the log says {outcome()}")


def counted(server: LiveServer, reason: str) -> float:
    """Returns how many fallbacks of a reason were counted so far."""
    return server.metrics().total("imagegen_fallbacks_total", reason=reason)


@pytest.mark.parametrize(("reason", "directive"), REFINER_FAULTS)
@pytest.mark.parametrize("mode", [pb.REFINER_MODE_IMAGE_TO_IMAGE, pb.REFINER_MODE_ENSEMBLE])
def test_a_refiner_fault_gives_the_bases_image(
    server: LiveServer, channel: grpc.Channel, reason: str, directive: str, mode: pb.RefinerMode
) -> None:
    """In both modes, at the first step and later, an image arrives and every witness gives the same reason."""
    before = counted(server, reason)
    message = request(f"a cat {directive}")
    message.refiner.mode = mode
    if mode == pb.REFINER_MODE_ENSEMBLE:
        message.refiner.ClearField("num_inference_steps")
    check_degraded(server, generate(channel, message), reason, before)


def test_a_missing_refiner_gives_the_bases_image(tmp_path: Path) -> None:
    """With --no-use-refiner a refined request is answered with the base's image and says so."""
    with live_server(tmp_path, "--no-use-refiner") as server, open_channel(server.address) as channel:
        ended = generate(channel, request())
        check_degraded(server, ended, "not_loaded", 0)
        assert pb.STAGE_REFINER not in [stage.stage for stage in ended.of("accepted")[0].plan.stages]
        refused = generate(channel, request(allowed_fallbacks=NO_FALLBACKS))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REFINER_NOT_LOADED")
        assert not refused.accepted


def test_a_deadline_without_time_to_refine_gives_the_bases_image(server: LiveServer, channel: grpc.Channel) -> None:
    """When the base took so long that only the decoding fits, the refiner is left out."""
    before = counted(server, "deadline")
    # the refiner is known to be slow: some 20 ms a step
    assert generate(channel, request("a cat" + slow_steps(0.05, base=0, refiner=20), refiner_steps=20)).ok
    # of the 4 s the stall leaves 1.5 s, less than its 100 steps take and more than the decoding does
    message = request("a cat {base:stall=2.5@19}", refiner_steps=100)
    for _ in range(3):  # a machine that stands still may miss the end: the call then fails, and is made again
        ended = generate(channel, message, timeout=4)
        if ended.ok:
            break
        assert ended.code is grpc.StatusCode.DEADLINE_EXCEEDED
    check_degraded(server, ended, "deadline", before)


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("oom", grpc.StatusCode.RESOURCE_EXHAUSTED, "GPU_OUT_OF_MEMORY"),
        ("nan", grpc.StatusCode.INTERNAL, "NUMERIC"),
        ("error", grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
@pytest.mark.parametrize("stage", ["text_encode", "base", "base@5", "refiner", "refiner@2", "vae_decode"])
def test_a_fault_without_a_fallback_ends_the_call(
    server: LiveServer, channel: grpc.Channel, stage: str, fault: str, code: grpc.StatusCode, reason: str
) -> None:
    """A fault that no fallback may answer is a status with its reason, and shows no internals."""
    name, at, step = stage.partition("@")
    before = server.metrics()
    ended = generate(channel, request(f"a cat {{{name}:{fault}{at}{step}}}", allowed_fallbacks=NO_FALLBACKS))
    assert (ended.code, ended.reason) == (code, reason), ended.details
    assert "injected" not in ended.details
    assert "Traceback" not in ended.details
    assert not ended.of("fallback")
    assert not ended.of("image_header")
    after = server.metrics()
    assert after.total("imagegen_fallbacks_total") == before.total("imagegen_fallbacks_total")
    ended_so = "imagegen_request_duration_seconds_count"
    assert after.total(ended_so, outcome="error") == before.total(ended_so, outcome="error") + 1
    eventually(server.idle, "a failed generation stays in flight")


def test_a_default_policy_does_not_save_the_base(channel: grpc.Channel) -> None:
    """The default fallback is for the refiner only."""
    ended = generate(channel, request("a cat {base:nan}"))
    assert (ended.code, ended.reason) == (grpc.StatusCode.INTERNAL, "NUMERIC")


def test_a_faulty_stranger_harms_nobody(server: LiveServer) -> None:
    """Whatever happens to one generation, those that share its batches get the image they get alone."""
    faults = ["refiner:oom@2", "refiner:nan@1", "refiner:error", "base:oom@4", "base:nan@2", "base:error@3"]
    with open_channel(server.address) as channel:
        alone = generate(channel, request(seed=7)).of("image_header")[0].sha256
    results: dict[str, Ended] = {}

    def call(name: str, prompt: str) -> None:
        with open_channel(server.address) as own:
            results[name] = generate(own, request(prompt, seed=7))

    for round_ in range(size(3, 20)):
        names = [(f"good {i}", "a cat") for i in range(5)]
        names += [
            (fault, f"a cat {{{fault}}}") for fault in (faults[round_ % 6], faults[(round_ + 3) % 6], "vae_decode:nan")
        ]
        threads = [threading.Thread(target=call, args=pair) for pair in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, _ in names:
            ended = results.pop(name)
            if name.startswith("good"):
                assert ended.ok, (ended.code, ended.details)
                assert not ended.of("fallback")
                assert ended.of("image_header")[0].sha256 == alone
            elif name.startswith("refiner"):
                assert ended.ok
                assert len(ended.of("fallback")) == 1
            else:
                assert ended.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED)
    eventually(server.idle, "a generation stays in flight")


def test_only_the_faulty_image_of_several_falls_back(server: LiveServer, channel: grpc.Channel) -> None:
    """A fault in the prompt strikes each image of the request; each falls back once and all arrive."""
    before = counted(server, "nan")
    ended = generate(channel, request("a cat {refiner:nan@1}", num_images=3))
    assert ended.ok
    assert sorted(event.image_index for event in ended.of("fallback")) == [0, 1, 2]
    assert sorted(ended.files) == [0, 1, 2]
    assert [image.refined for image in ended.of("completed")[0].images] == [False] * 3
    assert counted(server, "nan") == before + 3


def test_a_lost_device_ends_the_process(tmp_path: Path) -> None:
    """Every call ends UNAVAILABLE with RetryInfo, health says NOT_SERVING, and then the process exits with 1."""
    with live_server(tmp_path) as server, open_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        states = [next(watch).status]
        others: list[Ended] = []
        bystander = threading.Thread(
            target=lambda: others.append(
                generate(channel, request("a dog " + slow_steps(0.05, base=50), num_inference_steps=60))
            )
        )
        bystander.start()
        eventually(lambda: server.metrics().total("imagegen_stage_steps_total") > 0, "no step was taken")
        ended = generate(channel, request("a cat {base:lost@3}"))
        bystander.join()
        for seen in (ended, *others):
            assert (seen.code, seen.reason) == (grpc.StatusCode.UNAVAILABLE, "DEVICE_LOST")
            assert seen.retry_after is not None
        with suppress(grpc.RpcError):  # the end of the process ends the watch
            states.extend(answer.status for answer in watch)
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert states == [serving, not_serving]
        assert server.wait() == 1, server.raw_log()


def test_a_fault_that_ends_the_process_is_in_the_log(tmp_path: Path) -> None:
    """Between two polls and two scrapes: the log has what the driver reported and what the device said of it."""
    script = '{"xids": [[0.5, 79]], "ecc": {"uncorrected": [[0, 0], [0.5, 1]]}}'
    with live_server(tmp_path, "--gpu-script", script) as server, open_channel(server.address) as channel:
        generate(channel, request("a cat {base:stall=0.5@0}{base:lost@3}"))
        assert server.wait() == 1, server.raw_log()
        (loss,) = server.log("device lost")
        assert (loss["level"], loss["error"], loss["message"]) == ("error", "DeviceLost", "device lost in base")
        assert [(line["level"], line["xid"], line["count"]) for line in server.log("gpu xid")] == [("warning", 79, 1)]
        assert [line["uncorrected"] for line in server.log("gpu memory errors")] == [1]
        assert [(line["healthy"], line["reasons"]) for line in server.log("gpu health")] == [(False, ["xid 79"])]
        assert server.log()[-1]["event"] == "stopped"
        assert "never retrieved" not in server.raw_log()


def test_a_crash_is_seen_as_unavailable(tmp_path: Path) -> None:
    """When the process dies at once, its callers get the transport's UNAVAILABLE and no image."""
    with live_server(tmp_path) as server, open_channel(server.address) as channel:
        ended = generate(channel, request("a cat {refiner:crash@1}"))
        assert ended.code is grpc.StatusCode.UNAVAILABLE
        assert not ended.files
        try:
            assert server.wait() == 70
        except subprocess.TimeoutExpired:
            pytest.fail("the process did not die")
