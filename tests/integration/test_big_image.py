"""Images larger than gRPC's default message limit, for a stock client in another process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.live_server import live_server

STOCK_CLIENT = """
import hashlib, json, sys
import grpc
from imagegen.v1 import imagegen_pb2 as pb, imagegen_pb2_grpc as pb_grpc

channel = grpc.insecure_channel(sys.argv[1])
request = pb.GenerateImageRequest(
    prompt="a cat {noise}", width=int(sys.argv[2]), height=int(sys.argv[2]), num_inference_steps=20, seed=3
)
data, header, longest, last = bytearray(), None, 0, ""
for response in pb_grpc.ImageGenStub(channel).GenerateImage(request):
    last = response.WhichOneof("event")
    longest = max(longest, response.ByteSize())
    if last == "image_header":
        header = response.image_header
    elif last == "image_chunk":
        assert response.image_chunk.offset == len(data)
        data += response.image_chunk.data
open(sys.argv[3], "wb").write(data)
print(json.dumps({"size": header.size_bytes, "sha256": header.sha256, "longest": longest, "last": last}))
"""

PACKAGED_CLIENT = """
import hashlib, json, sys
import imagegen

with imagegen.Client(sys.argv[1]) as client:
    image = client.generate_image(
        "a cat {noise}", width=int(sys.argv[2]), height=int(sys.argv[2]), num_inference_steps=20, seed=3
    )
image.save(sys.argv[3])
print(json.dumps({"size": len(image.data), "sha256": image.sha256, "longest": 0, "last": "completed"}))
"""


@pytest.mark.parametrize("client", [STOCK_CLIENT, PACKAGED_CLIENT], ids=["stock", "packaged"])
def test_a_stock_client_gets_a_16_mb_image(tmp_path: Path, client: str) -> None:
    """With no option set, another process receives 16 MB whole and in order, in messages far below its limit."""
    with live_server(tmp_path) as server:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", client, server.address, "2400", str(tmp_path / "image.png")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        told = json.loads(result.stdout)
        data = (tmp_path / "image.png").read_bytes()
        assert len(data) == told["size"] >= 16 * 2**20
        assert hashlib.sha256(data).hexdigest() == told["sha256"]
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert told["last"] == "completed"
        assert told["longest"] < 2**20
        assert server.metrics().total("imagegen_image_bytes_sum") == len(data)
