"""Callers that read slowly, or not at all, and what they cost the server: bounded memory and bounded time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from support.live_server import LiveServer, live_server, open_channel
from support.load import NARROW, Ended, generate, request, size
from support.waiting import eventually

MIB = 2**20
IMAGES = 8
SIDE = 512
STEPS = 100
READERS = size(3, 12)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server that takes on few generations at a time, and is patient."""
    with live_server(tmp_path, "--max-delivering", "32", "--send-timeout", "300") as running:
        yield running


def message(request_id: str) -> pb.GenerateImageRequest:
    """Returns a request whose every step is reported, in more bytes than a window holds."""
    made = request(
        "a cat {noise}",
        request_id=request_id.ljust(128, "-"),
        num_images=IMAGES,
        width=SIDE,
        height=SIDE,
        num_inference_steps=STEPS,
        refiner_steps=STEPS,
    )
    made.progress.min_interval.CopyFrom(Duration())
    return made


def check_complete(ended: Ended) -> None:
    """Checks that everything but progress arrived, once, in order, and that the files are whole."""
    assert ended.ok, (ended.code, ended.details)
    assert [event.sequence for event in ended.events] == sorted({event.sequence for event in ended.events})
    started = [(event.stage, event.image_index) for event in ended.of("stage_started")]
    completed = [(event.stage, event.image_index) for event in ended.of("stage_completed")]
    each = [
        (stage, index)
        for stage in (pb.STAGE_BASE, pb.STAGE_REFINER, pb.STAGE_VAE_DECODE, pb.STAGE_IMAGE_ENCODE)
        for index in range(IMAGES)
    ]
    shared = [(pb.STAGE_QUEUED, 0), (pb.STAGE_TEXT_ENCODE, 0)]
    assert sorted(started) == sorted(completed) == sorted([*shared, *each])
    for header in ended.of("image_header"):
        data = bytes(ended.files[header.image_index])
        assert len(data) == header.size_bytes >= 3 * SIDE * SIDE
        assert hashlib.sha256(data).hexdigest() == header.sha256
    assert sorted(ended.files) == list(range(IMAGES))
    last: dict[tuple[int, int], int] = {}
    for progress in ended.of("step_progress"):
        place = (progress.stage, progress.image_index)
        assert progress.completed_steps > last.get(place, 0)
        last[place] = progress.completed_steps


def read_all(call: Any) -> Ended:
    """Reads a call to its end."""
    ended = Ended(grpc.StatusCode.OK)
    for event in call:
        ended.take(event)
    return ended


def all_encoded(server: LiveServer, generations: int) -> bool:
    """Returns whether every image of so many generations is a file."""
    return len([line for line in server.log("stage ended") if line["stage"] == "image_encode"]) == generations * IMAGES


def test_a_slow_reader_costs_what_it_has_not_read_and_no_more(server: LiveServer, figures: dict[str, object]) -> None:
    """Readers that stop reading leave the memory as it is, lose progress only, and do not hold up other callers."""
    with open_channel(server.address) as channel:
        attentive = generate(channel, message("attentive"))
    check_complete(attentive)

    channels = [open_channel(server.address, *NARROW) for _ in range(READERS)]
    calls = [
        pb_grpc.ImageGenStub(channel).GenerateImage(message(f"slow-{number}"))
        for number, channel in enumerate(channels)
    ]
    eventually(lambda: all_encoded(server, READERS + 1), "the device waits for a reader")
    before = server.rss()
    with open_channel(server.address) as channel:
        for number in range(size(20, 200)):
            assert generate(channel, request(seed=number)).ok
    time.sleep(1)
    grown = server.rss() - before
    figures["mib_grown_while_nobody_read"] = grown / MIB
    assert grown < 16 * MIB, f"{grown / MIB:.1f} MiB more while nobody read"
    for call in calls:
        ended = read_all(call)
        check_complete(ended)
        assert len(ended.of("step_progress")) < IMAGES * 2 * STEPS, "the server kept every step for a reader"
    for channel in channels:
        channel.close()
    eventually(server.idle, "generations stay in flight")


def test_slow_readers_hold_up_new_work_at_a_bound(tmp_path: Path) -> None:
    """No more than max_delivering finished generations wait for readers; newcomers stay queued until one reads."""
    with live_server(tmp_path, "--max-delivering", "2", "--max-running", "1", "--send-timeout", "300") as server:
        channels = [open_channel(server.address, *NARROW) for _ in range(5)]
        calls = [
            pb_grpc.ImageGenStub(channel).GenerateImage(message(f"bound-{number}"))
            for number, channel in enumerate(channels)
        ]
        eventually(lambda: all_encoded(server, 2), "the device waits for a reader")
        time.sleep(0.5)
        samples = server.metrics()
        assert samples.total("imagegen_requests_queued") == 3
        assert samples.total("imagegen_requests_delivering") == 2
        assert samples.total("imagegen_images_total") == 2 * IMAGES
        order = [line["request_id"] for line in server.log("accepted")]
        for name in sorted(order, key=order.index):
            check_complete(read_all(calls[int(name.strip("-").rpartition("-")[2])]))
        for channel in channels:
            channel.close()


def test_a_reader_that_never_reads_is_given_up(tmp_path: Path) -> None:
    """After send_timeout the generation ends for want of a reader, and nothing of it stays."""
    with (
        live_server(tmp_path, "--send-timeout", "1") as server,
        open_channel(server.address, *NARROW) as channel,
    ):
        call = pb_grpc.ImageGenStub(channel).GenerateImage(message("deaf"))
        eventually(lambda: bool(server.log("ended")), "the generation does not end")
        (line,) = server.log("ended")
        assert (line["request_id"].strip("-"), line["outcome"]) == ("deaf", "deadline")
        eventually(server.idle, "the generation stays in flight")
        stalls = server.metrics()
        assert stalls.total("imagegen_stream_write_stall_seconds_sum") >= 1, "the stall that ended it is not counted"
        with pytest.raises(grpc.RpcError) as raised:
            read_all(call)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert generate(channel, request()).ok
