"""Generations that are cut short at random moments, in every way that a caller has."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from support.load import Ended, follow, request

AT_ONCE = 12
"""Calls in flight: more than run, fewer than may wait."""
STEPS, REFINER_STEPS = 40, 20
EVALUATIONS = STEPS + REFINER_STEPS + 2
"""Turns on the device that a whole generation takes."""
SOONER = 2
"""How many times sooner a deadline passes than others cut: who has one is served first, and would be done by then."""
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
            cancelled = states[0] == pb.GENERATION_STATE_CANCELLED
            assert (ended.code is grpc.StatusCode.CANCELLED) == cancelled, (ended, states)
        return ended


async def by_closing_the_channel(address: str, after: float, request_id: str) -> Ended:
    """Closes the client's channel."""
    channel = channel_to(address)
    call = asyncio.ensure_future(follow(pb_grpc.ImageGenStub(channel).GenerateImage(message(request_id))))
    await asyncio.wait([call], timeout=after)
    await channel.close(None)
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
        request_id, after = f"{prefix}-{number}", rng.uniform(0, longest / SOONER if way is by_deadline else longest)
        async with places:
            ended = await way(address, after, request_id)
        attempts.append(Attempt(way=way, request_id=request_id, after=after, ended=ended))

    await asyncio.gather(*(one(number) for number in range(count)))
    return attempts


def check_results(attempts: Sequence[Attempt]) -> None:
    """Checks that every call ended well before it was cut, as one that was cut, or without what it had no time for."""
    for way in WAYS:
        ended = [attempt.ended for attempt in attempts if attempt.way is way]
        for one in ended:
            assert one.ok or one.code in CUT, (way, one.code, one.details, one.kinds)
        cut = [one for one in ended if not one.ok or one.of("fallback")]
        assert len(cut) > len(ended) / 3, f"{way}: only {len(cut)} of {len(ended)} were cut; the test proves little"


async def time_of_one(address: str) -> float:
    """Returns how long a generation of a storm takes when `AT_ONCE` run, after some that pay for being the first."""

    async def one(request_id: str) -> None:
        async with channel_to(address) as channel:
            await follow(pb_grpc.ImageGenStub(channel).GenerateImage(message(request_id)))

    async def together(name: str) -> float:
        began = time.monotonic()
        await asyncio.gather(*(one(f"{name}-{number}") for number in range(AT_ONCE)))
        return time.monotonic() - began

    await together("first")
    return await together("timed")
