"""Peer: diffusers behind a lock, on a gRPC server with a thread pool. `python serve_lock.py PORT`

The models run on one thread, which the holder of the lock waits for: called from the pool's own threads, torch would
build a pool of OpenMP threads for each and take several times as long. A call whose caller has gone while it waited
for the lock ends there, as a careful handler sees to.
"""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

sys.path[0] = str(Path(__file__).resolve().parents[2])

import grpc  # noqa: E402 - needs the path
from google.protobuf.wrappers_pb2 import BytesValue, StringValue  # noqa: E402 - as above

from bench.peers.pipelines import Pipelines  # noqa: E402 - as above
from bench.peers.wire import add_peer_servicer_to_server, decode_ask  # noqa: E402 - as above

THREADS: Final = 64
"""More than callers, so that all wait for the lock and none for a thread."""


class Peer:
    """The service."""

    def __init__(self) -> None:
        self._models = ThreadPoolExecutor(1)
        self._pipelines = self._models.submit(Pipelines).result()
        self._lock = threading.Lock()

    def Generate(self, request: StringValue, context: Any) -> BytesValue:  # noqa: N802 - gRPC's name
        """Makes one image while no other is made."""
        ask = decode_ask(request)
        with self._lock:
            if not context.is_active():
                return BytesValue()
            return BytesValue(value=self._models.submit(self._pipelines.files, [ask]).result()[0])


def main() -> None:
    """Serves until SIGTERM."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    add_peer_servicer_to_server(Peer(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    over.wait()
    server.stop(1).wait()


if __name__ == "__main__":
    main()
