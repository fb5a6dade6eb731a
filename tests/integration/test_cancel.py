"""Generations that are stopped at random moments in every way a caller has, and what is left of them: nothing."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server import api, models, telemetry
from imagegen_server.core import EngineObserver, GenerationRequest, Job, ModelProfile, Plan, Stage, StepResult
from imagegen_server.engine import Engine
from imagegen_server.errors import Unavailable, UnavailableReason
from imagegen_server.models.fake.runner import SCHEDULERS, FakeRunner
from imagegen_server.models.fake.script import FakeTiming
from imagegen_server.process import Process
from support.edge import Recorder
from support.engines import engine_of
from support.live_server import LiveServer, Samples, live_server
from support.load import follow, request, size
from support.storm import EVALUATIONS, Attempt, by_deadline, channel_to, check_results, storm, time_of_one
from support.waiting import eventually, until

pytestmark = pytest.mark.slow

CANCELS = size(80, 1000)


# -- a server in a process of its own --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose one encoder thread has started by the time threads are counted."""
    with live_server(tmp_path_factory.mktemp("cancel"), "--max-running", "6", "--encode-threads", "1") as running:
        yield running


async def test_nothing_is_left_of_cancelled_generations(server: LiveServer, figures: dict[str, object]) -> None:
    """After many cancels in five ways the device rests, and no gauge, thread or file descriptor is left over."""
    rng = random.Random(4)
    longest = await time_of_one(server.address)
    await storm(server.address, 25, longest, rng)  # what grows with the first calls has grown
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

    def closed() -> bool:
        gc.collect()  # some versions of grpc keep the connection of a closed channel until then
        return server.descriptors() <= descriptors

    await asyncio.to_thread(eventually, closed, lambda: f"{server.descriptors()} fds, was {descriptors}")
    await asyncio.to_thread(
        eventually, lambda: server.threads() <= threads, lambda: f"{server.threads()} threads, was {threads}"
    )
    figures["calls"], figures["cut"] = len(attempts), sum(not attempt.ended.ok for attempt in attempts)
    figures["most_seconds_from_cancel_to_stop"] = max(line["latency_seconds"] for line in server.log("cancelled"))
    figures["descriptors"], figures["threads"] = (
        f"{descriptors} -> {server.descriptors()}",
        f"{threads} -> {server.threads()}",
    )


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
            directive = f"{{{stage}:stall=1.5@{step}}}"  # longer than a busy machine takes to notice it
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
        return any(line["request_id"] == request_id and line["stage"] == before for line in server.log("stage ended"))

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


# -- the same in this process, where every step and task can be seen -------------------------------------------------


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


class Stops(EngineObserver):
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


@asynccontextmanager
async def serving(runner: Witness, stops: Stops) -> AsyncIterator[tuple[str, Engine]]:
    """Serves a runner from this process."""
    model = runner.describe()
    profile = model.profile.name
    methods = [(m.type, m.service, m.method) for m in api.served_methods()]
    metrics = telemetry.Metrics(CollectorRegistry(), models=[profile], methods=methods)
    events = telemetry.fan_out(EngineObserver, (telemetry.MetricsObserver(metrics, profile), stops), on_error=_fail)
    engine = engine_of(runner, events, max_running=6)
    process = Process((model.profile,))
    process.serve(engine, model)
    server = await api.create_server(
        process,
        settings=api.ServerSettings(address="127.0.0.1:0"),
        edge=api.EdgeSettings(),
        rpc_observer=telemetry.RpcMetrics(metrics),
        edge_observer=Recorder(),
    )
    device = threading.Thread(target=engine.run_forever)
    device.start()
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}", engine
    finally:
        engine.stop(Unavailable(UnavailableReason.DRAINING, "the test is over"))
        await server.stop(None)
        await asyncio.to_thread(device.join)


def _fail(event: str, error: Exception) -> None:
    raise AssertionError(f"a listener failed at {event}") from error


async def test_no_generation_runs_on_for_more_than_a_step(figures: dict[str, object]) -> None:
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
        await until(lambda: len(asyncio.all_tasks()) <= tasks, lambda: f"tasks are left: {asyncio.all_tasks()}")
    for attempt in attempts:
        if attempt.way is by_deadline and attempt.request_id in stops.admitted:
            # from its admission on: a little later than the deadline, which transport rounds up by a hundredth
            stops.asked.setdefault(attempt.request_id, stops.admitted[attempt.request_id] + attempt.after * 1.02)
    ran_on = {name: sum(began > asked for began in runner.began[name]) for name, asked in stops.asked.items()}
    figures["generations_by_evaluations_begun_after_the_cancel"] = dict(Counter(ran_on.values()))
    assert ran_on
    assert max(ran_on.values()) <= 1, {name: count for name, count in ran_on.items() if count > 1}
    assert sum(len(runner.began[name]) < EVALUATIONS for name in stops.asked) > len(stops.asked) / 4
