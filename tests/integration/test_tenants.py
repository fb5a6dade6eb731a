"""Tenants beside each other on one server: quotas over gRPC, and one that asks for a hundred times what it may have."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.api import new_key
from support.edge import rich_status, trailers
from support.live_server import LiveServer, live_server
from support.waiting import eventually

EVALUATION = 0.01
STEPS = 30
GREEDY_RATE = 1.0
"""Generations per second that the greedy tenant may have."""


@dataclass(kw_only=True)
class Site:
    """A server with a modest and a greedy tenant."""

    server: LiveServer
    modest: str
    greedy: str
    narrow: str
    file: Path
    refused: list[grpc.aio.AioRpcError] = field(default_factory=list)

    def channel(self) -> grpc.aio.Channel:
        """Returns a channel with a connection of its own, which does not retry."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        return grpc.aio.insecure_channel(self.server.address, options)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The greedy tenant may have 30 steps a second; the narrow one generation at a time."""
    directory = tmp_path_factory.mktemp("server")
    keys = {name: new_key(name) for name in ("modest", "greedy", "narrow")}
    modest, greedy, narrow = (key for key, _ in keys.values())
    rate = STEPS * GREEDY_RATE * 60
    lines = [
        *(line for _, line in keys.values()),
        f'{{"tenant": "greedy", "steps_per_minute": {rate}, "burst_steps": {STEPS}}}',
        '{"tenant": "narrow", "max_in_flight": 1}',
    ]
    file = directory / "keys.jsonl"
    file.write_text("\n".join(lines))
    fake = f'--fake-script={{"evaluation": {EVALUATION}}}'
    with live_server(directory, f"--api-keys={file}", fake, "--log-level=warning") as server:
        yield Site(server=server, file=file, modest=modest, greedy=greedy, narrow=narrow)


def message(**options: Any) -> pb.GenerateImageRequest:
    """Returns a request for an image of `STEPS` steps."""
    return pb.GenerateImageRequest(prompt="a cat", num_inference_steps=STEPS, use_refinement=False, **options)


async def generate(channel: grpc.aio.Channel, key: str, request: pb.GenerateImageRequest) -> float:
    """Returns the seconds that an image took. Raises AioRpcError."""
    began = time.monotonic()
    call = pb_grpc.ImageGenStub(channel).GenerateImage(request, timeout=120, metadata=(("x-api-key", key),))
    async for _ in call:
        pass
    return time.monotonic() - began


async def test_refusals_tell_when_to_come_back(site: Site) -> None:
    """RESOURCE_EXHAUSTED, RetryInfo and push-back, a reason each; counted as `quota`; nobody else is refused."""
    before = site.server.metrics()
    async with site.channel() as channel:
        running = pb_grpc.ImageGenStub(channel).GenerateImage(
            message(num_images=8), timeout=120, metadata=(("x-api-key", site.narrow),)
        )
        await running.read()
        for key, reason in ((site.narrow, "TENANT_CONCURRENCY"), (site.greedy, "TENANT_STEP_RATE")):
            if key == site.greedy:  # into debt
                await generate(channel, key, message(num_images=8))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await generate(channel, key, message())
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            _, details = rich_status(caught.value)
            assert details["ErrorInfo"].reason == reason
            wait = details["RetryInfo"].retry_delay.ToMilliseconds()
            assert 0 < wait < 8000
            assert trailers(caught.value)["grpc-retry-pushback-ms"] == str(wait)
        running.cancel()
        await generate(channel, site.modest, message())
    eventually(site.server.idle, "something is left in flight")
    async with site.channel() as channel:
        await generate(channel, site.narrow, message())
    after = site.server.metrics()
    counted = [samples.total("imagegen_rejected_total", reason="quota") for samples in (before, after)]
    assert counted[1] - counted[0] == 2


async def test_strangers_leave_a_place_on_the_device(site: Site, tmp_path: Path) -> None:
    """Where a policy lets them in, whoever has a key begins and ends while they wait for each other."""
    slow = f'--fake-script={{"evaluation": {2 * EVALUATION}}}'
    options = (f"--api-keys={site.file}", "--auth-policy=inference=open", "--max-running=2", "--log-level=warning")
    with live_server(tmp_path, slow, *options) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = pb_grpc.ImageGenStub(channel)
            ids = ("first", "second")
            strangers = []
            for name in ids:
                many = pb.GenerateImageRequest(prompt="a dog", request_id=name, num_inference_steps=100, num_images=4)
                strangers.append(stub.GenerateImage(many, timeout=120))
                await strangers[-1].read()
            await generate(channel, site.modest, message())
            reports = [await stub.GetGeneration(pb.GetGenerationRequest(request_id=name)) for name in ids]
            assert [report.state for report in reports] == [pb.GENERATION_STATE_RUNNING, pb.GENERATION_STATE_QUEUED]
            for call in strangers:
                call.cancel()
        eventually(server.idle, "something is left in flight")


@pytest.mark.alone
async def test_a_tenant_at_a_hundred_times_its_quota_hardly_slows_another(site: Site) -> None:
    """The other's slowest stay within one and a half times what they are beside the same tenant at its quota."""
    times: dict[int, list[float]] = {1: [], 100: []}
    accepted, refused = dict.fromkeys(times, 0), dict.fromkeys(times, 0)

    async def ask(channel: grpc.aio.Channel, factor: int) -> None:
        try:
            await generate(channel, site.greedy, message())
            accepted[factor] += 1
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            refused[factor] += 1

    @contextlib.asynccontextmanager
    async def flood(factor: int) -> AsyncIterator[None]:
        """Asks `factor` times as often as is allowed, whether there are answers or not."""
        async with site.channel() as channel, asyncio.TaskGroup() as tasks:

            async def keep_asking() -> None:
                began, sent = time.monotonic(), 0
                while True:
                    sent += 1
                    tasks.create_task(ask(channel, factor))
                    await asyncio.sleep(max(0.0, began + sent / (GREEDY_RATE * factor) - time.monotonic()))

            asking = tasks.create_task(keep_asking())
            yield
            asking.cancel()

    async with site.channel() as channel:
        for factor in (1, 100, 1, 100):
            async with flood(factor):
                for _ in range(4):
                    batch = (generate(channel, site.modest, message()) for _ in range(4))
                    times[factor] += await asyncio.gather(*batch)
    assert refused[100] > 10 * accepted[100] > 0
    calm, busy = (sorted(times[factor])[-5] for factor in (1, 100))  # the slowest, but for one bad moment's four
    assert busy <= 1.5 * calm, (calm, busy, accepted, refused)
