"""Ten times more callers than the queue holds: who is let in, what the others are told, and what it costs the first."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

from support.live_server import LiveServer, live_server
from support.load import FULL, Ended, generate_aio, request, size
from support.waiting import eventually

QUEUE, RUNNING, DELIVERING = 8, 4, 6
CALLERS = 10 * QUEUE
SECONDS = size(4, 60)
STEP = 0.03
"""Seconds of an evaluation: a fast GPU's at 1024 x 1024. The rest of the machine must not be what is measured."""
GOODPUT_RATIO = 0.95 if FULL else 0.8
"""Least goodput under overload as a part of the saturated one; a short run ends in the middle of a batch."""
REFUSAL_P99 = 0.05
"""Seconds; checked at full size only."""

pytestmark = pytest.mark.alone  # two goodputs are compared, one after the other


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a short queue."""
    bounds = {"queue-capacity": QUEUE, "max-running": RUNNING, "max-delivering": DELIVERING}
    arguments = [part for name, value in bounds.items() for part in (f"--{name}", str(value))]
    script = f'{{"evaluation": {STEP}}}'
    with live_server(tmp_path_factory.mktemp("overload"), *arguments, "--fake-script", script) as running:
        yield running


@dataclass(slots=True)
class Load:
    """What a number of callers saw."""

    completed: list[float] = field(default_factory=list)
    """When generations completed."""
    refusals: list[tuple[float, Ended]] = field(default_factory=list)
    """How long refused calls took, and how they ended."""
    others: list[Ended] = field(default_factory=list)
    """Calls that ended in any other way."""

    def goodput(self) -> float:
        """Returns generations per second between the first and the last completion."""
        first, *_, last = sorted(self.completed)
        return (len(self.completed) - 1) / (last - first)

    def refusal_quantile(self, percent: int) -> float:
        """Returns a percentile of the refusals' durations in seconds."""
        return statistics.quantiles((seconds for seconds, _ in self.refusals), n=100)[percent - 1]


async def run_load(server: LiveServer, callers: int, seconds: float) -> Load:
    """Runs callers that ask for one generation after the other and wait as long as they are told when refused."""
    load, end = Load(), time.monotonic() + seconds

    async def caller(channel: grpc.aio.Channel) -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            ended = await generate_aio(channel, request(refiner_steps=5))
            if ended.ok:
                load.completed.append(time.monotonic())
            elif ended.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                load.refusals.append((time.monotonic() - began, ended))
                await asyncio.sleep(ended.retry_after or 0)
            else:
                load.others.append(ended)

    async with grpc.aio.insecure_channel(server.address) as channel:
        await asyncio.gather(*(caller(channel) for _ in range(callers)))
    await asyncio.to_thread(eventually, server.idle, "generations stay in flight")
    return load


def most(server: LiveServer) -> tuple[int, int]:
    """Returns the most generations that were ever in flight and queued, from the log, which has every change."""
    flight = queued = most_flight = most_queued = 0
    for line in server.log():
        if line["event"] == "accepted":
            flight, queued = flight + 1, queued + 1
        elif line["event"] == "ended":
            flight -= 1
        elif line["event"] == "stage ended" and line["stage"] == "queued":
            queued -= 1
        most_flight, most_queued = max(most_flight, flight), max(most_queued, queued)
    assert (flight, queued) == (0, 0)
    return most_flight, most_queued


def check_refusal(ended: Ended) -> None:
    """Checks that a refused caller is told why and when to come back, and was told nothing else before."""
    assert not ended.accepted
    assert ended.reason == "QUEUE_FULL"
    assert ended.retry_after is not None
    assert ended.pushback_ms is not None
    assert 0 < ended.retry_after <= 30
    assert ended.pushback_ms == round(ended.retry_after * 1000)


async def test_overload_is_refused_and_does_not_slow_what_was_accepted(
    server: LiveServer, figures: dict[str, object]
) -> None:
    """No more than the bounds is ever taken on, refusals say when to retry, and goodput is that of a full queue."""
    saturated = await run_load(server, QUEUE, SECONDS)  # twice what runs: the device never waits, nobody is refused
    assert not saturated.refusals
    assert not saturated.others
    before = server.metrics()
    overload = await run_load(server, CALLERS, SECONDS)
    assert not overload.others, overload.others[0]
    assert len(overload.refusals) > CALLERS
    for _, ended in overload.refusals:
        check_refusal(ended)
    after = server.metrics()
    full = {"reason": "queue_full"}
    counted = after.total("imagegen_rejected_total", **full) - before.total("imagegen_rejected_total", **full)
    assert counted == len(overload.refusals)

    flight, queued = await asyncio.to_thread(most, server)
    assert queued == QUEUE, "the queue was never full, or more than full"
    assert flight <= QUEUE + RUNNING + DELIVERING

    ratio = overload.goodput() / saturated.goodput()
    p99 = overload.refusal_quantile(99)
    figures |= {
        "goodput_saturated_per_second": saturated.goodput(),
        "goodput_overload_per_second": overload.goodput(),
        "goodput_ratio": ratio,
        "completed": len(overload.completed),
        "refusals": len(overload.refusals),
        "refusal_p50_seconds": overload.refusal_quantile(50),
        "refusal_p99_seconds": p99,
        "most_in_flight": f"{flight} of {QUEUE + RUNNING + DELIVERING}",
        "most_queued": f"{queued} of {QUEUE}",
    }
    assert ratio >= GOODPUT_RATIO, figures
    if FULL:
        assert p99 < REFUSAL_P99, figures


async def test_callers_that_do_not_wait_are_refused_all_the_same(server: LiveServer) -> None:
    """A burst of ten times the queue at once: as many as fit are served, every other call is refused at once."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        answers = await asyncio.gather(*(generate_aio(channel, request(refiner_steps=5)) for _ in range(CALLERS)))
    served = [ended for ended in answers if ended.ok]
    refused = [ended for ended in answers if not ended.ok]
    assert QUEUE <= len(served) <= QUEUE + RUNNING + DELIVERING
    for ended in refused:
        assert ended.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        check_refusal(ended)
