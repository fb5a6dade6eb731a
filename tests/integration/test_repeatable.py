"""The same seed gives the same file: again, in another process, and in whatever company."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from support.live_server import LiveServer, live_server, open_channel
from support.load import Ended, generate, request, size

pytestmark = pytest.mark.slow

FORMATS = ("image/png", "image/jpeg", "image/webp")


def wanted(seed: int, mime_type: str, **fields: object) -> pb.GenerateImageRequest:
    """Returns the request that is repeated."""
    message = request("a red circle on a blue background", seed=seed, isolate_batch=True, num_images=2, **fields)
    message.output.mime_type = mime_type
    return message


def files_of(server: LiveServer, message: pb.GenerateImageRequest) -> tuple[bytes, ...]:
    """Returns the files that a request gives."""
    with open_channel(server.address) as channel:
        ended = generate(channel, message)
    assert ended.ok, (ended.code, ended.details)
    return tuple(bytes(ended.files[index]) for index in sorted(ended.files))


def in_company(server: LiveServer, message: pb.GenerateImageRequest) -> tuple[bytes, ...]:
    """Returns the files that a request gives while strangers come and go."""
    strangers: list[Ended] = []

    def stranger(channel: grpc.Channel, number: int) -> None:
        for _ in range(2):
            steps = 20 + number
            strangers.append(generate(channel, request(f"stranger {number}", seed=number, num_inference_steps=steps)))

    with open_channel(server.address) as channel:
        threads = [threading.Thread(target=stranger, args=(channel, number)) for number in range(2)]
        for thread in threads:
            thread.start()
        files = files_of(server, message)
        for thread in threads:
            thread.join()
    assert [ended.ok for ended in strangers] == [True] * 4
    return files


@pytest.mark.parametrize("model", ["fake", "shapes"])
def test_the_same_seed_gives_the_same_file(tmp_path: Path, model: str) -> None:
    """With isolate_batch every file is byte-identical, alone, in company and after a restart; another seed differs."""
    fields = {"num_inference_steps": 20, "refiner_steps": 3}
    formats = FORMATS if model == "fake" else FORMATS[:1]
    seen: dict[str, tuple[bytes, ...]] = {}
    for start in range(2):
        with live_server(tmp_path, model=model) as server:
            for mime_type in formats:
                message = wanted(11, mime_type, **fields)
                first = seen.setdefault(mime_type, files_of(server, message))
                assert len(set(first)) == 2
                assert in_company(server, message) == first
                for _ in range(size(start, 10)):
                    assert files_of(server, message) == first
                    assert files_of(server, wanted(12, mime_type, **fields))[0] != first[0]


def test_image_i_is_the_image_of_seed_plus_i(tmp_path: Path) -> None:
    """The second of two images shows what a request with the next seed shows."""
    with live_server(tmp_path) as server, open_channel(server.address) as channel:
        output = pb.OutputOptions(embed_parameters=False)
        two = generate(channel, request(seed=5, num_images=2, output=output))
        one = generate(channel, request(seed=6, output=output))
        assert two.files[1] == one.files[0]
        assert {header.image_index: header.seed for header in two.of("image_header")} == {0: 5, 1: 6}
