"""Peer: LitServe with batching, over HTTP. `python serve_litserve.py PORT`

One worker, as there is one device; LitServe's worker calls the models from one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

sys.path[0] = str(Path(__file__).resolve().parents[2])

import litserve  # noqa: E402 - needs the path
from fastapi import Response  # noqa: E402 - as above

from bench.peers.asks import Ask  # noqa: E402 - as above
from bench.peers.pipelines import Pipelines  # noqa: E402 - as above

BATCH: Final = 8
WAIT: Final = 0.02
"""Seconds that an incomplete batch waits for company."""


class Peer(litserve.LitAPI):  # type: ignore[misc] # LitServe has an environment of its own
    """The service."""

    def setup(self, device: Any) -> None:
        """Loads the models, in the worker."""
        del device
        self._pipelines = Pipelines()

    def decode_request(self, request) -> Ask:  # type: ignore[no-untyped-def] # its annotation would say what to read
        """Returns the request. Without an annotation, LitServe hands over the body's JSON."""
        return Ask.from_json(request)

    def batch(self, inputs: list[Ask]) -> list[Ask]:
        """Leaves the requests as they are."""
        return inputs

    def predict(self, asks: list[Ask]) -> list[bytes]:
        """Returns the files of a batch."""
        return self._pipelines.files(asks)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Leaves the files as they are."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Returns a file as the reply's body."""
        return Response(content=output, media_type="image/png")


def main() -> None:
    """Serves until SIGTERM."""
    server = litserve.LitServer(
        Peer(max_batch_size=BATCH, batch_timeout=WAIT), accelerator="cpu", workers_per_device=1, timeout=False
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
