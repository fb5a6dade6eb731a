"""WatchGeneration in front of the real engine: re-attaching, following, outliving a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import JournalSettings, StreamSettings
from imagegen_server.api.readers import ANSWER
from imagegen_server.core import Outcome, RejectReason, Stage
from imagegen_server.models.fake.script import FakeTiming
from support import wire
from support.cutting_proxy import cutting_proxy
from support.edge import EOF, Edge, drained, own_channel, read_on, reassembled, refusal, rich_status
from support.engine_edge import ObservedProcess, kinds, serving, wanted
from support.load import NARROW
from support.waiting import until

CONTINUE: dict[str, Any] = {"on_disconnect": pb.ON_DISCONNECT_CONTINUE, "progress": {"min_interval": {}}}
SLOW = FakeTiming(evaluation=0.02)
VERY_SLOW = FakeTiming(evaluation=0.2)
"""Ten seconds, of which a test sees one or two steps."""
CANARY = "xylophone-canary"


async def watched(edge: Edge, request_id: str, after: int = 0) -> list[pb.GenerateImageResponse]:
    """Returns what a watcher gets."""
    call = edge.stub.WatchGeneration(pb.WatchGenerationRequest(request_id=request_id, after_sequence=after))
    return [message.response async for message in call]


async def state_of(edge: Edge, request_id: str) -> pb.GetGenerationResponse:
    """Returns what GetGeneration says."""
    answer: pb.GetGenerationResponse = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id=request_id))
    return answer


async def begun(call: Any, event: str = "step_progress") -> list[pb.GenerateImageResponse]:
    """Reads a stream until an event of this kind, and returns what came."""
    messages = [await call.read()]
    while messages[-1].WhichOneof("event") != event:
        messages.append(await call.read())
    return messages


async def read_into(messages: list[pb.GenerateImageResponse], call: Any) -> None:
    """Reads a stream to its end into a list that has what came, however it ends."""
    while (message := await call.read()) is not EOF:
        messages.append(message)


async def test_a_watcher_gets_the_very_messages() -> None:
    """From any sequence on, while it runs and afterwards, image bytes included; any number of watchers."""
    async with serving(timing=FakeTiming(evaluation=0.002)) as (edge, process):
        call = edge.stub.GenerateImage(wanted(request_id="g", num_images=2, **CONTINUE))
        messages = await begun(call)
        live = [asyncio.ensure_future(watched(edge, "g", after)) for after in (0, 0, messages[-1].sequence)]
        messages += await read_on(call)
        assert kinds(messages)[-1] == "completed"
        assert set(reassembled(messages)) == {0, 1}
        for watcher, start in zip(live, (0, 0, messages[-1].sequence), strict=True):
            seen = await watcher
            assert seen == messages[-len(seen) :]
            assert start or seen == messages
        for after in {0, 1, *(message.sequence for message in messages[-8:])}:
            assert await watched(edge, "g", after) == [m for m in messages if m.sequence > after]
        assert (await state_of(edge, "g")).completed == messages[-1].completed
        assert process.referee.outcomes == {"g": [Outcome.OK]}


async def test_any_running_generation_can_be_watched() -> None:
    """Also one that ends with its call; once it has ended, its events are not kept, and that is said."""
    async with serving(timing=SLOW) as (edge, _):
        call = edge.stub.GenerateImage(wanted(request_id="g", progress={"min_interval": {}}))
        messages = await begun(call)
        watcher = asyncio.ensure_future(watched(edge, "g"))
        messages += await read_on(call)
        assert await watcher == messages
        await edge.settled()
        error = await refusal(watched(edge, "g"))
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert rich_status(error)[1]["ErrorInfo"].reason == "EVENTS_NOT_KEPT"
        assert (await state_of(edge, "g")).state == pb.GENERATION_STATE_COMPLETED


@pytest.mark.parametrize("how", ["cut", "cancel", "deadline"])
async def test_a_generation_outlives_its_connection_if_asked_to(how: str) -> None:
    """A reset connection, a cancelled call and a passed deadline leave it running; who re-attaches misses nothing."""
    async with serving(timing=SLOW) as (edge, process):
        with cutting_proxy(edge.port) as proxy:
            async with own_channel(proxy.port) as stub:
                request = wanted(request_id="g", prompt=CANARY, **CONTINUE)
                call = stub.GenerateImage(request, timeout=0.4 if how == "deadline" else None)
                before = await begun(call)
                if how == "cut":
                    await asyncio.to_thread(proxy.cut)
                    assert (await refusal(read_on(call))).code() is grpc.StatusCode.UNAVAILABLE
                elif how == "cancel":
                    call.cancel()
                else:
                    assert (await refusal(read_into(before, call))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await edge.settled()
        found = await state_of(edge, "g")
        assert found.state in (pb.GENERATION_STATE_RUNNING, pb.GENERATION_STATE_COMPLETED)
        assert found.on_disconnect == pb.ON_DISCONNECT_CONTINUE
        rest = await watched(edge, "g", before[-1].sequence)
        assert kinds(rest)[-1] == "completed"
        assert before + rest == await watched(edge, "g")
        same = await drained(edge.stub.GenerateImage(wanted(prompt=CANARY)))
        assert reassembled(before + rest) == reassembled(same)
        assert process.referee.outcomes["g"] == [Outcome.OK]


async def test_a_cut_connection_stops_a_generation_that_did_not_ask() -> None:
    """The default stays: device work ends with the connection, and watchers learn it."""
    async with serving(timing=VERY_SLOW) as (edge, process):
        with cutting_proxy(edge.port) as proxy:
            async with own_channel(proxy.port) as stub:
                call = stub.GenerateImage(wanted(request_id="g"))
                await begun(call)
                watching = edge.stub.WatchGeneration(pb.WatchGenerationRequest(request_id="g"))
                await watching.read()  # so that it is attached before the cut
                watcher = asyncio.ensure_future(refusal(read_on(watching)))
                await asyncio.to_thread(proxy.cut)
                await until(process.idle)
        assert (await watcher).code() is grpc.StatusCode.CANCELLED
        assert (await state_of(edge, "g")).state == pb.GENERATION_STATE_CANCELLED


async def test_a_detached_generation_can_be_cancelled() -> None:
    """CancelGeneration stops it within a step; watchers then and later end with CANCELLED after what was sent."""
    async with serving(timing=VERY_SLOW) as (edge, process):
        call = edge.stub.GenerateImage(wanted(request_id="g", **CONTINUE))
        before = await begun(call)
        call.cancel()
        watcher = asyncio.ensure_future(refusal(watched(edge, "g")))
        await edge.stub.CancelGeneration(pb.CancelGenerationRequest(request_id="g"))
        await until(process.idle)
        for error in (await watcher, await refusal(watched(edge, "g", before[-1].sequence))):
            assert error.code() is grpc.StatusCode.CANCELLED
            assert rich_status(error)[1]["RequestInfo"].request_id == "g"
        found = await state_of(edge, "g")
        assert (found.state, found.failure.reason) == (pb.GENERATION_STATE_CANCELLED, "CANCELLED")


async def test_a_failure_is_told_to_whoever_comes() -> None:
    """The status is that of the call itself, a bug included, which is reported once."""
    async with serving() as (edge, _):
        request = wanted(f"{CANARY} {{base:nan}}", request_id="g", **CONTINUE)
        first = await refusal(drained(edge.stub.GenerateImage(request)))
        later = await refusal(watched(edge, "g"))
        assert (first.code(), first.details()) == (later.code(), later.details())
        assert rich_status(later)[1]["ErrorInfo"].reason == "NUMERIC"
        assert CANARY not in str(rich_status(later))


async def test_the_same_request_attaches_while_it_runs() -> None:
    """A retry whose first answer was lost gets the generation that runs, from its beginning; another body does not."""
    async with serving(timing=SLOW) as (edge, process):
        request = wanted(request_id="g", **CONTINUE)
        first = edge.stub.GenerateImage(request)
        await begun(first)
        again = asyncio.ensure_future(drained(edge.stub.GenerateImage(request)))
        render = edge.stub.RenderImage(pb.RenderImageRequest(generation=request, include_image_data=True))
        other = await refusal(drained(edge.stub.GenerateImage(wanted("another", request_id="g", **CONTINUE))))
        assert other.code() is grpc.StatusCode.ALREADY_EXISTS
        messages = await again
        assert kinds(messages)[0] == "accepted"
        assert {0: (await render).images[0].data} == reassembled(messages)
        assert messages == await watched(edge, "g")
        await read_on(first)
        assert process.referee.accepted_ids == ["g"]


async def test_a_deadline_neither_refuses_nor_hurries_it() -> None:
    """What a call cannot wait for is generated all the same, refiner included, and can be fetched later."""
    async with serving(timing=FakeTiming(evaluation=0.005)) as (edge, _):
        await drained(edge.stub.GenerateImage(wanted()))  # from now on, costs are known
        hopeless = pb.RenderImageRequest(generation=wanted(request_id="g", **CONTINUE))
        assert (await refusal(edge.stub.RenderImage(hopeless, timeout=0.1))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        messages = await watched(edge, "g")
        assert messages[-1].completed.images[0].refined


async def test_what_was_dropped_is_refused_never_skipped() -> None:
    """A watcher that comes too late for the bound is told so; the caller itself got everything."""
    bound = 100_000
    async with serving(journal=JournalSettings(max_bytes=bound)) as (edge, _):
        call = edge.stub.GenerateImage(wanted(request_id="g", num_images=4, **CONTINUE))
        messages = await read_on(call)
        assert {len(data) for data in reassembled(messages).values()} == {128 * 128 * 3}
        error = await refusal(watched(edge, "g"))
        info = rich_status(error)[1]["ErrorInfo"]
        assert (error.code(), info.reason) == (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_NOT_KEPT")
        first = int(info.metadata["first_kept_sequence"])
        kept = [message for message in messages if message.sequence >= first]
        assert await watched(edge, "g", first - 1) == kept
        assert 0 < sum(message.ByteSize() for message in kept) <= bound


@pytest.mark.parametrize("outlives", [True, False])
async def test_a_watcher_that_reads_on_misses_nothing_of_an_image_above_the_bound(outlives: bool) -> None:
    """Whoever follows from the start gets the image, though no caller slows its generation down and it is not kept."""
    async with serving(timing=SLOW, journal=JournalSettings(max_bytes=20_000)) as (edge, _):
        request = wanted(request_id="g", num_images=2, **(CONTINUE if outlives else {}))
        call = edge.stub.GenerateImage(request)
        await call.read()
        watching = edge.stub.WatchGeneration(pb.WatchGenerationRequest(request_id="g"))
        messages = [(await watching.read()).response]
        watcher: asyncio.Future[list[Any]] = asyncio.ensure_future(read_on(watching))
        if outlives:
            call.cancel()
        else:
            await read_on(call)
        messages += [answer.response for answer in await watcher]
        assert (kinds(messages)[0], kinds(messages)[-1]) == ("accepted", "completed")
        assert {len(data) for data in reassembled(messages).values()} == {128 * 128 * 3}
        error = await refusal(watched(edge, "g"))
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_a_caller_misses_nothing_while_others_hold_the_bound() -> None:
    """What a new call's generation sends before its headers are out waits for it, however much others have to read."""
    async with (
        serving(journal=JournalSettings(max_bytes=100_000)) as (edge, process),
        own_channel(edge.port, *NARROW) as stub,
    ):
        deaf = stub.GenerateImage(wanted(request_id="deaf", width=1024, height=1024, **CONTINUE))
        await deaf.read()
        await until(lambda: process.engine().report("deaf").stage is Stage.SEND)
        messages = await drained(edge.stub.GenerateImage(wanted(request_id="g", **CONTINUE)))
        assert (kinds(messages)[0], kinds(messages)[-1]) == ("accepted", "completed")
        deaf.cancel()


async def test_watchers_that_leave_or_do_not_read_change_nothing() -> None:
    """A hundred that leave at once, and some that stop reading, cost the generation and the others nothing."""
    stream = StreamSettings(chunk_bytes=100_000, send_timeout=0.3)
    async with serving(timing=FakeTiming(evaluation=0.01), stream=stream) as (edge, process):
        request = wanted(request_id="g", width=1024, height=1024, **CONTINUE)
        call = edge.stub.GenerateImage(request)
        messages = await begun(call)
        watch = pb.WatchGenerationRequest(request_id="g")
        gone = [edge.stub.WatchGeneration(watch) for _ in range(100)]
        await asyncio.gather(*(one.read() for one in gone))
        for one in gone:
            one.cancel()
        async with own_channel(edge.port, *NARROW) as stub:
            deaf = [stub.WatchGeneration(watch) for _ in range(3)]
            await asyncio.gather(*(one.read() for one in deaf))
            good = asyncio.ensure_future(watched(edge, "g"))
            messages += await read_on(call)
            assert await good == messages
            await edge.settled()
            for one in deaf:
                error = await refusal(read_on(one))
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert process.referee.outcomes == {"g": [Outcome.OK]}


async def test_calls_that_watch_are_bounded() -> None:
    """One too many is refused with a time to come back, and counted; one that leaves makes room."""
    async with serving(timing=SLOW, max_readers=3) as (edge, _):
        call = edge.stub.GenerateImage(wanted(request_id="g", **CONTINUE))
        await begun(call)
        watch = pb.WatchGenerationRequest(request_id="g")
        watching = [edge.stub.WatchGeneration(watch) for _ in range(3)]
        await asyncio.gather(*(one.read() for one in watching))
        attaching = edge.stub.GenerateImage(wanted(request_id="g", **CONTINUE))
        rendering = edge.stub.RenderImage(pb.RenderImageRequest(generation=wanted(request_id="g", **CONTINUE)))
        for one in (watched(edge, "g"), drained(attaching), rendering):
            error = await refusal(one)
            details = rich_status(error)[1]
            assert (error.code(), details["ErrorInfo"].reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READERS")
            assert details["RetryInfo"].retry_delay.seconds > 0
        assert edge.seen.rejections == [RejectReason.QUOTA] * 3
        watching[0].cancel()
        await until(lambda: grpc.StatusCode.CANCELLED in [code for _, code in edge.seen.codes])
        assert kinds(await watched(edge, "g"))[-1] == "completed"
        for one in watching[1:]:
            await read_on(one)
        await read_on(call)


async def test_an_answer_of_a_generation_that_outlives_its_call_is_bounded() -> None:
    """Its generation ends without it; until it is read, or its connection is gone, it counts against newcomers."""
    stream = StreamSettings(send_timeout=0.3)
    async with serving(stream=stream, max_readers=ANSWER) as (edge, process):
        generation = wanted(request_id="g", width=1024, height=1024, **CONTINUE)
        request = pb.RenderImageRequest(generation=generation, include_image_data=True)
        path = b"/imagegen.v1.ImageGen/RenderImage"
        _, writer = await wire.begin(edge.port, path, request.SerializeToString())
        await until(lambda: process.referee.outcomes.get("g") == [Outcome.OK])
        await asyncio.sleep(0.1)  # until its answer is on its way
        error = await refusal(drained(edge.stub.GenerateImage(wanted())))
        assert rich_status(error)[1]["ErrorInfo"].reason == "READERS"
        await edge.settled()
        assert edge.seen.codes[-1][1] is grpc.StatusCode.DEADLINE_EXCEEDED
        error = await refusal(drained(edge.stub.GenerateImage(wanted())))
        assert rich_status(error)[1]["ErrorInfo"].reason == "READERS"
        writer.transport.abort()


async def test_draining_ends_detached_generations_like_others() -> None:
    """Those that wait end at once, those that run end with the grace period, with UNAVAILABLE and a time to retry."""
    async with serving(timing=VERY_SLOW, max_running=1) as (edge, process):
        for name, event in (("runs", "step_progress"), ("waits", "accepted")):
            call = edge.stub.GenerateImage(wanted(request_id=name, **CONTINUE))
            await begun(call, event)
            call.cancel()
        watching = [edge.stub.WatchGeneration(pb.WatchGenerationRequest(request_id=name)) for name in ("runs", "waits")]
        for each in watching:
            await each.read()  # so that it is attached before the drain
        watchers = [asyncio.ensure_future(refusal(read_on(each))) for each in watching]
        process.engine().drain(errors.Unavailable(errors.UnavailableReason.DRAINING, "the server is shutting down"))
        assert (await watchers[1]).code() is grpc.StatusCode.UNAVAILABLE
        assert not watchers[0].done()
        process.engine().stop(errors.Unavailable(errors.UnavailableReason.DRAINING, "the server is shutting down"))
        details = rich_status(await watchers[0])[1]
        assert details["ErrorInfo"].reason == "DRAINING"
        assert details["RetryInfo"].retry_delay.seconds == errors.RETRY_AFTER


@pytest.mark.parametrize(
    ("request_id", "after", "code", "fields"),
    [
        ("never", 0, grpc.StatusCode.NOT_FOUND, []),
        ("a b", -1, grpc.StatusCode.INVALID_ARGUMENT, ["request_id", "after_sequence"]),
        ("g", 10**6, grpc.StatusCode.INVALID_ARGUMENT, ["after_sequence"]),
    ],
)
async def test_refusals(
    kept: tuple[Edge, ObservedProcess], request_id: str, after: int, code: grpc.StatusCode, fields: Sequence[str]
) -> None:
    """Every violation at once, trailers only; ids that are unknown are named."""
    edge, _ = kept
    call = edge.stub.WatchGeneration(pb.WatchGenerationRequest(request_id=request_id, after_sequence=after))
    error = await refusal(drained(call))
    assert error.code() is code
    details = rich_status(error)[1]
    assert [v.field for v in details["BadRequest"].field_violations] == fields if fields else "ResourceInfo" in details
    assert not list(await call.initial_metadata())


@pytest.fixture
async def kept() -> AsyncIterator[tuple[Edge, ObservedProcess]]:
    """A server that keeps the generation `g`."""
    async with serving() as served:
        await drained(served[0].stub.GenerateImage(wanted(request_id="g", **CONTINUE)))
        yield served
