"""Generations that are stopped at random moments in every way a caller has, and what is left of them: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server import api, models, output, telemetry
from imagegen_server.core import GenerationRequest, Job, LoadedModel, ModelProfile, Plan, Stage, StepResult
from imagegen_server.engine import Engine, EngineSettings
from imagegen_server.errors import Unavailable
from imagegen_server.models.fake import SCHEDULERS, FakeRunner, FakeTiming
from support.live_server import LiveServer, Samples, eventually, live_server
from support.load import Ended, follow, request, size

CANCELS = size(120, 1000)
AT_ONCE = 12
"""Calls in flight: more than run, fewer than may wait."""
STEPS, REFINER_STEPS = 40, 20
CUT = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
"""How a call that was cut short ends for its caller; UNAVAILABLE is what a broken connection looks like."""

Cut = Callable[[str, float, str], Awaitable[Ended]]
"""(address, seconds after which to cut, request id) -> how the call ended."""


def channel_to(address: str) -> grpc.aio.Channel:
    """Returns a channel with a connection of its own."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def message(request_id: str) -> pb.GenerateImageRequest:
    """Returns a request that takes some tenths of a second and sends several chunks."""
    prompt = "a cat {noise} {vae_decode:stall=0.01}"
    return request(
        prompt, request_id=request_id, num_inference_steps=STEPS, refiner_steps=REFINER_STEPS, width=320, height=320
    )


async def by_the_call(address: str, after: float, request_id: str) -> Ended:
    """Cancels the call."""
    async with channel_to(address) as channel:
        call = pb_grpc.ImageGenStub(channel).GenerateImage(message(request_id))
        asyncio.get_running_loop().call_later(after, call.cancel)
        try:
            return await follow(call)
        except asyncio.CancelledError:  # what grpc.aio raises to the reader of a call that was cancelled here
            return Ended(grpc.StatusCode.CANCELLED)


async def by_deadline(address: str, after: float, request_id: str) -> Ended:
    """Lets the deadline pass."""
    async with channel_to(address) as channel:
        return await follow(pb_grpc.ImageGenStub(channel).GenerateImage(message(request_id), timeout=max(after, 0.001)))


async def by_another_call(address: str, after: float, request_id: str) -> Ended:
    """Calls CancelGeneration, twice, from another connection."""
    async with channel_to(address) as channel, channel_to(address) as other:
        call = asyncio.ensure_future(follow(pb_grpc.ImageGenStub(channel).GenerateImage(message(request_id))))
        await asyncio.sleep(after)
        states = []
        for _ in range(2):
            with contextlib.suppress(grpc.aio.AioRpcError):  # NOT_FOUND: not yet arrived
                answer = await pb_grpc.ImageGenStub(other).CancelGeneration(
                    pb.CancelGenerationRequest(request_id=request_id)
                )
                states.append(answer.state)
        ended = await call
        if len(states) == 2:
            assert states[0] == states[1]
            assert (ended.code is grpc.StatusCode.CANCELLED) == (states[0] == pb.GENERATION_STATE_CANCELLED)
        return ended


async def by_closing_the_channel(address: str, after: float, request_id: str) -> Ended:
    """Closes the client's channel."""
    channel = channel_to(address)
    call = asyncio.ensure_future(follow(pb_grpc.ImageGenStub(channel).GenerateImage(message(request_id))))
    await asyncio.wait([call], timeout=after)
    await channel.close()
    try:
        return await call
    except asyncio.CancelledError:
        return Ended(grpc.StatusCode.CANCELLED)


async def by_breaking_the_connection(address: str, after: float, request_id: str) -> Ended:
    """Resets the TCP connection under the call, as a client that is killed or a network that fails does."""
    async with _breakable(address) as (through, break_now), channel_to(through) as channel:
        call = asyncio.ensure_future(follow(pb_grpc.ImageGenStub(channel).GenerateImage(message(request_id))))
        await asyncio.wait([call], timeout=after)
        break_now()
        return await call


WAYS: Sequence[Cut] = (
    by_the_call,
    by_deadline,
    by_another_call,
    by_closing_the_channel,
    by_breaking_the_connection,
)


@asynccontextmanager
async def _breakable(address: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Passes bytes to a server until told to reset the connections to it."""
    host, _, port = address.rpartition(":")
    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        writers.extend((writer, upstream_writer))
        for pair in ((reader, upstream_writer), (upstream_reader, writer)):
            task = asyncio.ensure_future(pump(*pair))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def break_now() -> None:
        listener.close()
        for writer in writers:
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    listener = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", break_now
    finally:
        break_now()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


@dataclass(kw_only=True, frozen=True, slots=True)
class Attempt:
    """One call of a storm."""

    way: Cut
    request_id: str
    after: float
    """Seconds after which it was cut."""
    ended: Ended


async def storm(address: str, count: int, longest: float, rng: random.Random) -> list[Attempt]:
    """Makes `count` calls, `AT_ONCE` at a time, and cuts each at a random moment."""
    attempts: list[Attempt] = []
    places = asyncio.Semaphore(AT_ONCE)
    prefix = f"{rng.getrandbits(48):x}"

    async def one(number: int) -> None:
        way = WAYS[number % len(WAYS)]
        request_id, after = f"{prefix}-{number}", rng.uniform(0, longest)
        async with places:
            ended = await way(address, after, request_id)
        attempts.append(Attempt(way=way, request_id=request_id, after=after, ended=ended))

    await asyncio.gather(*(one(number) for number in range(count)))
    return attempts


def check_results(attempts: Sequence[Attempt]) -> None:
    """Checks that every call either ended well before it was cut, or as one that was cut."""
    for way in WAYS:
        ended = [attempt.ended for attempt in attempts if attempt.way is way]
        for one in ended:
            assert one.ok or one.code in CUT, (way, one.code, one.details, one.kinds)
        cut = [one for one in ended if not one.ok]
        assert len(cut) > len(ended) / 3, f"{way}: only {len(cut)} of {len(ended)} were cut; the test proves little"


async def time_of_one(address: str) -> float:
    """Returns how long a generation of a storm takes when `AT_ONCE` of them run."""

    async def one(number: int) -> None:
        async with channel_to(address) as channel:
            await follow(pb_grpc.ImageGenStub(channel).GenerateImage(message(f"timing-{number}")))

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    return time.monotonic() - began


# -- a server in a process of its own --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose one encoder thread has started by the time threads are counted."""
    with live_server(tmp_path_factory.mktemp("cancel"), "--max-running", "6", "--encode-threads", "1") as running:
        yield running


async def test_nothing_is_left_of_cancelled_generations(
    server: LiveServer, record_property: Callable[[str, Any], None]
) -> None:
    """After many cancels in five ways the device rests, and no gauge, thread or file descriptor is left over."""
    rng = random.Random(4)
    longest = await time_of_one(server.address)
    await storm(server.address, 40, longest, rng)  # what grows with the first calls has grown
    await asyncio.to_thread(eventually, server.idle, "generations stay in flight")
    descriptors, threads = server.descriptors(), server.threads()
    before = server.metrics()

    attempts = await storm(server.address, CANCELS, longest, rng)
    check_results(attempts)

    await asyncio.to_thread(eventually, server.idle, "generations stay in flight")
    steps = server.metrics().total("imagegen_stage_steps_total")
    await asyncio.sleep(0.3)
    after = server.metrics()
    assert after.total("imagegen_stage_steps_total") == steps, "the device works on with nothing in flight"
    check_books(server, before, after, attempts)
    await asyncio.to_thread(
        eventually, lambda: server.descriptors() <= descriptors, lambda: f"{server.descriptors()} fds, was {descriptors}"
    )
    await asyncio.to_thread(
        eventually, lambda: server.threads() <= threads, lambda: f"{server.threads()} threads, was {threads}"
    )
    record_property("cut", sum(not attempt.ended.ok for attempt in attempts))
    record_property("cancel_latency_most", max(line["latency_seconds"] for line in server.log("cancelled")))


def check_books(server: LiveServer, before: Samples, after: Samples, attempts: Sequence[Attempt]) -> None:
    """Checks that metrics and log tell of as many ends as of admissions, and that no way to stop is an error."""

    def moved(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    duration = "imagegen_request_duration_seconds_count"
    assert moved(duration, outcome="error") == 0, server.log("bug")
    cancelled = moved("imagegen_cancelled_total")
    assert cancelled == moved(duration, outcome="cancelled") == moved("imagegen_cancel_latency_seconds_count")
    assert cancelled + moved(duration, outcome="deadline") > 0
    assert moved(duration, outcome="ok") >= sum(attempt.ended.ok for attempt in attempts)
    assert {line["request_id"] for line in server.log("accepted")} == {
        line["request_id"] for line in server.log("ended")
    }
    assert not server.log("bug")
    for stage in ("queued", "base"):
        assert after.total("imagegen_cancelled_total", stage=stage) > 0, f"no cancel met the stage {stage}"


async def test_cancel_stops_every_stage(server: LiveServer) -> None:
    """CancelGeneration stops a generation in the stage it is in, which its status and the metrics name."""
    stages = {"text_encode": 0, "base": 3, "refiner": 2, "vae_decode": 0}
    async with channel_to(server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)
        for stage, step in stages.items():
            before = server.metrics()
            directive = f"{{{stage}:stall=0.4@{step}}}"
            call = stub.GenerateImage(request(f"a cat {directive}", request_id=f"stage-{stage}"))
            following = asyncio.ensure_future(follow(call))
            await asyncio.sleep(0)
            await _in_stage(server, f"stage-{stage}", stage)
            answer = await stub.CancelGeneration(pb.CancelGenerationRequest(request_id=f"stage-{stage}"))
            assert answer.state == pb.GENERATION_STATE_CANCELLED
            ended = await following
            assert (ended.code, ended.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
            counted = server.metrics().total("imagegen_cancelled_total", stage=stage)
            assert counted == before.total("imagegen_cancelled_total", stage=stage) + 1


async def _in_stage(server: LiveServer, request_id: str, stage: str) -> None:
    """Waits until the stage before has ended, which is when the device begins to stall in this one."""
    before = {"text_encode": "queued", "base": "text_encode", "refiner": "base", "vae_decode": "refiner"}[stage]

    def there() -> bool:
        return any(
            line["request_id"] == request_id and line["stage"] == before for line in server.log("stage ended")
        )

    await asyncio.to_thread(eventually, there, f"stage {stage} is not reached")
    await asyncio.sleep(0.05)


async def test_cancelling_is_idempotent(server: LiveServer) -> None:
    """A generation that has ended keeps its state; an unknown id is NOT_FOUND; a bad one INVALID_ARGUMENT."""
    async with channel_to(server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)
        assert (await follow(stub.GenerateImage(request(request_id="done-1")))).ok
        for _ in range(2):
            answer = await stub.CancelGeneration(pb.CancelGenerationRequest(request_id="done-1"))
            assert answer.state == pb.GENERATION_STATE_COMPLETED
        for request_id, code in (("never-seen", "NOT_FOUND"), ("", "INVALID_ARGUMENT"), ("a b", "INVALID_ARGUMENT")):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.CancelGeneration(pb.CancelGenerationRequest(request_id=request_id))
            assert raised.value.code() is grpc.StatusCode[code]


# -- the same in this process, where every step and task can be seen ----------------------------------------------------


class Witness(FakeRunner):
    """The fake runner, which notes when it began to work for whom."""

    def __init__(self, profile: ModelProfile) -> None:
        super().__init__(profile, timing=FakeTiming(evaluation=0.002))
        self.began: dict[str, list[float]] = defaultdict(list)

    def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        """Notes the start, and works."""
        now = time.monotonic()
        for job in jobs:
            self.began[job.request.request_id].append(now)
        return super().step(stage, jobs)


class Stops(telemetry.EngineEvents):
    """Notes when generations were admitted, and when they were asked to stop, by the engine's own account."""

    def __init__(self) -> None:
        self.admitted: dict[str, float] = {}
        self.asked: dict[str, float] = {}

    def accepted(self, request: GenerationRequest, plan: Plan) -> None:
        """Notes it."""
        self.admitted[request.request_id] = time.monotonic()

    def cancelled(self, request: GenerationRequest, stage: Stage, latency: float) -> None:
        """Notes it."""
        self.asked[request.request_id] = time.monotonic() - latency


class InProcess:
    """Implements `api.Backend` around an engine."""

    version = "0"
    start_time = 0.0

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def state(self) -> api.ServerState:
        return api.ServerState.SERVING

    def engine(self) -> Engine:
        return self._engine

    def loaded(self) -> LoadedModel | None:
        return self._engine.loaded()

    def profiles(self) -> Sequence[ModelProfile]:
        return (self._engine.loaded().profile,)


@asynccontextmanager
async def serving(runner: Witness, stops: Stops) -> AsyncIterator[tuple[str, Engine]]:
    """Serves a runner from this process."""
    profile = runner.describe().profile.name
    methods = [(m.type, m.service, m.method) for m in api.served_methods()]
    metrics = telemetry.Metrics(CollectorRegistry(), models=[profile], methods=methods)
    events = telemetry.FanOut((telemetry.MetricsObserver(metrics, profile), stops), on_error=_fail)
    engine = Engine(runner=runner, encode=output.encode, observer=events, settings=EngineSettings(max_running=6))
    server = await api.create_server(
        InProcess(engine),
        settings=api.ServerSettings(address="127.0.0.1:0"),
        edge=api.EdgeSettings(),
        rpc_observer=telemetry.RpcMetrics(metrics),
        edge_observer=api.Unobserved(),
    )
    device = threading.Thread(target=engine.run_forever)
    device.start()
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}", engine
    finally:
        engine.stop(Unavailable("DRAINING", "the test is over", 1.0))
        await server.stop(None)
        await asyncio.to_thread(device.join)


def _fail(event: str, error: Exception) -> None:
    raise AssertionError(f"a listener failed at {event}") from error


async def test_no_generation_runs_on_for_more_than_a_step(record_property: Callable[[str, Any], None]) -> None:
    """At most one evaluation begins after a cancel was heard; every job is released and every task ends."""
    (profile,) = [known for known in models.model_profiles() if known.name == "fake"]
    runner, stops = Witness(replace(profile, schedulers=SCHEDULERS)), Stops()
    async with serving(runner, stops) as (address, engine):
        longest = await time_of_one(address)
        tasks = len(asyncio.all_tasks())
        attempts = await storm(address, CANCELS, longest, random.Random(5))
        check_results(attempts)
        await asyncio.to_thread(eventually, lambda: engine.wait_idle(0.1), "generations live on")
        await asyncio.to_thread(eventually, lambda: not runner.held, "the device holds jobs of ended generations")
        for _ in range(200):
            if len(asyncio.all_tasks()) <= tasks:
                break
            await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) <= tasks, asyncio.all_tasks()
    for attempt in attempts:
        if attempt.way is by_deadline and attempt.request_id in stops.admitted:
            # from its admission on: a little later than the deadline, which transport rounds up by a hundredth
            stops.asked.setdefault(attempt.request_id, stops.admitted[attempt.request_id] + attempt.after * 1.02)
    ran_on = {name: sum(began > asked for began in runner.began[name]) for name, asked in stops.asked.items()}
    record_property("evaluations_begun_after_the_cancel", dict(Counter(ran_on.values())))
    assert ran_on
    assert max(ran_on.values()) <= 1, {name: count for name, count in ran_on.items() if count > 1}
    whole = STEPS + REFINER_STEPS + 2
    assert sum(len(runner.began[name]) < whole for name in stops.asked) > len(stops.asked) / 4
