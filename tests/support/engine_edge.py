"""The edge in front of the real engine with the fake runner: whole generations over a real channel, in one process."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import JournalSettings, StreamSettings
from imagegen_server.api.time_left import EARLY
from imagegen_server.core import Defaults, EncodedImage, GenerationRequest, Pixels
from imagegen_server.engine import Encode, Engine, EngineSettings, Keep
from imagegen_server.models.fake.runner import SCHEDULERS, FakeRunner
from imagegen_server.models.fake.script import FakeTiming
from imagegen_server.process import Process
from support.edge import Edge, Recorder, running_edge
from support.referee import Referee
from support.simulation import PROFILE, encode_preview
from support.waiting import until

SMALL = replace(PROFILE, defaults=Defaults(width=128, height=128), schedulers=SCHEDULERS)
CHUNKS = StreamSettings(chunk_bytes=10_000)


def encode(pixels: Pixels, request: GenerationRequest, image_index: int, **_: Any) -> EncodedImage:
    """Encodes nothing: the pixels are the file."""
    digest = hashlib.sha256(pixels.data).hexdigest()
    return EncodedImage(mime_type=request.output.mime_type, data=pixels.data, sha256=digest)


class ObservedProcess(Process):
    """The process around the edge, with what its engine runs on and tells."""

    def __init__(self, runner: FakeRunner, referee: Referee) -> None:
        super().__init__((SMALL,))
        self.runner = runner
        self.referee = referee

    def idle(self) -> bool:
        """Whether no generation lives and the runner holds nothing."""
        state = self.engine().queue_state()
        return state.queued + state.running == 0 and not self.runner.held


@asynccontextmanager
async def serving(
    *,
    refiner: bool = True,
    timing: FakeTiming | None = None,
    stream: StreamSettings = CHUNKS,
    keep: Keep | None = None,
    journal: JournalSettings | None = None,
    auth: Callable[[Recorder], Any] | None = None,
    encode: Encode = encode,
    early: float = EARLY,
    max_readers: int = 128,
    **settings: Any,
) -> AsyncIterator[tuple[Edge, ObservedProcess]]:
    """Yields an edge in front of a running engine; nothing may live when it is left."""
    runner = FakeRunner(SMALL, timing=timing or FakeTiming(evaluation=0.0002), refiner=refiner)
    referee = Referee()
    engine = Engine(
        runner=runner,
        encode=encode,
        encode_preview=encode_preview,
        observer=referee,
        settings=EngineSettings(**settings),
        keep=keep,
    )
    process = ObservedProcess(runner, referee)
    process.serve(engine, engine.loaded())
    device = threading.Thread(target=engine.run_forever)
    device.start()
    try:
        async with running_edge(
            stream, process, journal=journal, auth=auth, early=early, max_readers=max_readers
        ) as edge:
            yield edge, process
            await edge.settled()
            await until(process.idle)
            assert edge.seen.bugs == []
    finally:
        engine.stop(errors.Unavailable(errors.UnavailableReason.DRAINING, "the test is over"))
        await asyncio.to_thread(device.join)
    assert {name: len(outcomes) for name, outcomes in referee.outcomes.items()} == Counter(referee.accepted_ids)
    assert not +referee.open_stages


def wanted(prompt: str = "a circle", **fields: Any) -> pb.GenerateImageRequest:
    """Returns a short request."""
    return pb.GenerateImageRequest(prompt=prompt, **{"num_inference_steps": 20, "seed": 5, **fields})


def kinds(messages: Sequence[pb.GenerateImageResponse]) -> list[str]:
    """Returns the event of each message."""
    return [str(message.WhichOneof("event")) for message in messages]
