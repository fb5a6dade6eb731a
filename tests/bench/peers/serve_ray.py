"""Peer: Ray Serve's gRPC proxy with `@serve.batch`. `python serve_ray.py PORT`

One replica, as there is one device. Its models run on one thread, so that its event loop goes on collecting requests;
that thread is given all cores, which Ray would otherwise limit to the replica's share.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

TESTS: Final = Path(__file__).resolve().parents[2]
sys.path[0] = str(TESTS)

import ray  # noqa: E402 - needs the path
from google.protobuf.wrappers_pb2 import BytesValue, StringValue  # noqa: E402 - as above
from ray import serve  # noqa: E402 - as above
from ray.serve.config import gRPCOptions  # noqa: E402 - as above

from bench.peers.asks import Ask  # noqa: E402 - as above
from bench.peers.ledger import VARIABLE  # noqa: E402 - as above
from bench.peers.pipelines import Pipelines, threads  # noqa: E402 - as above
from bench.peers.wire import decode_ask  # noqa: E402 - as above
from imagegen_server.child import free_port  # noqa: E402 - as above

BATCH: Final = 8
WAIT: Final = 0.02
"""Seconds that an incomplete batch waits for company."""
CORES: Final = len(os.sched_getaffinity(0))


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": CORES - 0.5})
class Peer:
    """The service's one replica."""

    def __init__(self) -> None:
        self._models = ThreadPoolExecutor(1)
        self._pipelines = self._models.submit(Pipelines).result()

    async def Generate(self, request: StringValue) -> BytesValue:  # noqa: N802 - gRPC's name
        """Makes one image, in a batch."""
        return BytesValue(value=await self._batch(decode_ask(request)))

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)  # type: ignore[untyped-decorator] # as Ray is
    async def _batch(self, asks: list[Ask]) -> list[bytes]:
        return await asyncio.get_running_loop().run_in_executor(self._models, self._pipelines.files, asks)


def main() -> None:
    """Serves until SIGTERM."""
    over = threading.Event()
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads()), VARIABLE: os.environ[VARIABLE]}
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    deployment: Any = Peer  # what the decorator makes of it
    serve.start(
        grpc_options=gRPCOptions(
            port=int(sys.argv[1]), grpc_servicer_functions=["bench.peers.wire.add_peer_servicer_to_server"]
        ),
        http_options={"host": "127.0.0.1", "port": free_port()},
    )
    serve.run(deployment.bind(), name="peer", route_prefix="/peer")
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    over.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
