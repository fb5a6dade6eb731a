"""What a real server keeps for those who watch: bounded memory, and what was accepted is delivered on SIGTERM."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from support.live_server import live_server, open_channel
from support.load import NARROW, request
from support.waiting import eventually

KEPT: Final = 8 * 2**20
"""Bytes that may be kept; less than three of the images below."""
FAKE: Final = '{"evaluation": 0.0005, "text_encode": 0.001, "vae_decode": 0.001}'


def large(name: str) -> pb.GenerateImageRequest:
    """Returns a request for 3 MiB that do not compress, from a generation that outlives its connection."""
    size = {"width": 1024, "height": 1024, "num_inference_steps": 20}
    return request("a cat {noise}", request_id=name, on_disconnect=pb.ON_DISCONNECT_CONTINUE, **size)


def stub_of(channel: grpc.Channel) -> pb_grpc.ImageGenStub:
    """Returns a stub."""
    return pb_grpc.ImageGenStub(channel)


def abandon(channel: grpc.Channel, names: Sequence[str]) -> None:
    """Begins generations, leaves each, and waits until all have completed by themselves."""
    stub = stub_of(channel)
    for name in names:
        call = stub.GenerateImage(large(name))
        next(iter(call))
        call.cancel()

    def state_of(name: str) -> int:
        return stub.GetGeneration(pb.GetGenerationRequest(request_id=name)).state

    eventually(
        lambda: {*map(state_of, names)} == {pb.GENERATION_STATE_COMPLETED},
        lambda: f"what was left did not complete: {[*map(state_of, names)]}",
    )


def test_abandoned_results_take_bounded_memory(tmp_path: Path, figures: dict[str, object]) -> None:
    """However many generations are left behind, the server keeps the newest within the bound, and says what is gone."""
    arguments = (f"--fake-script={FAKE}", f"--kept-events-bytes={KEPT}")
    with live_server(tmp_path, *arguments) as server, open_channel(server.address) as channel:
        abandon(channel, [f"first-{number}" for number in range(8)])
        before = server.rss()
        abandon(channel, [f"then-{number}" for number in range(16)])
        grown = server.rss() - before
        figures["mib_left_behind"], figures["mib_grown"] = 16 * 3, grown / 2**20
        assert grown < 24 * 2**20
        names = [f"then-{number}" for number in range(16)]
        codes = Counter(code_of(channel, name) for name in ("first-0", *names))
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.OUT_OF_RANGE}
        assert codes[grpc.StatusCode.OK] * 3 * 2**20 <= KEPT
        assert code_of(channel, "first-0") is grpc.StatusCode.OUT_OF_RANGE


def test_sigterm_waits_for_those_who_read(tmp_path: Path) -> None:
    """A slow caller and a slow watcher of a generation that has ended get every byte within the grace period."""
    with live_server(tmp_path, f"--fake-script={FAKE}", "--grace-period=60") as server:
        with open_channel(server.address, *NARROW) as channel, open_channel(server.address) as quick:
            call = stub_of(channel).GenerateImage(large("slow"))
            next(iter(call))
            watcher = stub_of(channel).WatchGeneration(watch("slow"))
            next(iter(watcher))
            asked = pb.GetGenerationRequest(request_id="slow")
            eventually(
                lambda: stub_of(quick).GetGeneration(asked).state == pb.GENERATION_STATE_COMPLETED, "it never ended"
            )
            server.terminate()
            time.sleep(2.5)  # longer than a call gets that nobody waits for
            assert last_event(list(call)) == "completed"
            assert last_event([answer.response for answer in watcher]) == "completed"
        assert server.wait() == 0


def last_event(messages: list[pb.GenerateImageResponse]) -> str | None:
    """Returns what a stream ended with."""
    event: str | None = messages[-1].WhichOneof("event")
    return event


def watch(name: str) -> pb.WatchGenerationRequest:
    """Returns the request to watch a generation from its beginning."""
    return pb.WatchGenerationRequest(request_id=name)


def code_of(channel: grpc.Channel, name: str) -> grpc.StatusCode:
    """Returns how watching a generation ends."""
    try:
        list(stub_of(channel).WatchGeneration(watch(name)))
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK
