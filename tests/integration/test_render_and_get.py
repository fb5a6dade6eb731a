"""RenderImage and GetGeneration in front of the real engine: the same work as GenerateImage, in one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format

from imagegen import AsyncClient, errors, types
from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api.replies import Reply
from imagegen_server.core import EncodedImage, GenerationRequest, KeepFailure, Outcome, RejectReason
from imagegen_server.errors import ReplyTooLarge
from imagegen_server.models.fake.script import FakeTiming
from support.cutting_proxy import cutting_proxy
from support.edge import EOF, drained, read_on, reassembled, refusal, rich_status, trailers
from support.engine_edge import serving, wanted
from support.messages import header
from support.waiting import until

CANARY = "xylophone-canary"


def shelf(
    image: EncodedImage,
    request: GenerationRequest,
    image_index: int,
    *,
    done: Callable[[str, KeepFailure | None], None],
    **_: Any,
) -> None:
    """Keeps every image but number 1."""
    if image_index == 1:
        done("", KeepFailure.FULL)
    else:
        done(f"http://shelf/{request.request_id}/{image_index}", None)


def rendering(include: bool = False, **fields: Any) -> pb.RenderImageRequest:
    """Returns a request for one answer."""
    return pb.RenderImageRequest(generation=wanted(**fields), include_image_data=include)


async def test_one_answer_has_what_the_stream_has() -> None:
    """Plan, files, summaries and outcome are those that GenerateImage sends for the same request."""
    async with serving(keep=shelf) as (edge, _):
        messages = await drained(edge.stub.GenerateImage(wanted(num_images=2)))
        reply = await edge.stub.RenderImage(rendering(True, num_images=2, request_id="mine"))
    streamed = messages[-1].completed
    assert reply.request_id == "mine"
    assert reply.plan == messages[0].accepted.plan
    assert {n: image.data for n, image in enumerate(reply.images)} == reassembled(messages)
    assert [image.summary for image in reply.images] == list(reply.completed.images)
    assert [summary.sha256 for summary in streamed.images] == [image.summary.sha256 for image in reply.images]
    assert [image.url for image in reply.images] == ["http://shelf/mine/0", ""]
    assert [(told.code, told.image_index) for told in reply.warnings] == [(pb.WARNING_CODE_IMAGE_NOT_KEPT, 1)]
    assert {image.mime_type for image in reply.images} == {"image/png"}
    assert {timing.stage for timing in reply.completed.stage_timings} == {t.stage for t in streamed.stage_timings}
    assert reply.completed.total_duration.ToNanoseconds() / 1e9 == reply.generation_seconds > 0
    assert (reply.seed, reply.model, reply.url) == (5, "fake", "http://shelf/mine/0")
    assert (reply.mime_type, reply.size, reply.refined) == ("image/png", pb.Size(width=128, height=128), True)


async def test_bytes_come_only_when_asked_for() -> None:
    """By default the answer is small, whatever the images weigh; without a store there is no URL."""
    async with serving() as (edge, _):
        reply = await edge.stub.RenderImage(rendering())
    (image,) = reply.images
    assert (image.data, image.url, reply.url) == (b"", "", "")
    assert image.summary.size_bytes == 128 * 128 * 3
    assert reply.ByteSize() < 1000


async def test_json_callers_find_plain_fields() -> None:
    """What a JSON caller reads at the top has the names and types of JSON."""
    async with serving(keep=shelf) as (edge, _):
        reply = await edge.stub.RenderImage(rendering(prompt="a cat {refiner:oom}", request_id="j"))
    read = json_format.MessageToDict(reply)
    assert (read["url"], read["seed"], read["model"]) == ("http://shelf/j/0", "5", "fake")
    assert isinstance(read["generationSeconds"], float)
    assert read["fallbacks"][0]["reason"] == "FALLBACK_REASON_OOM"
    assert "refined" not in read


async def test_plan_only() -> None:
    """validate_only answers with the plan and the id alone, and runs nothing."""
    async with serving() as (edge, process):
        reply = await edge.stub.RenderImage(rendering(validate_only=True, request_id="p"))
        assert process.referee.accepted_ids == []
    assert (reply.request_id, reply.plan.seed) == ("p", 5)
    assert [field.name for field, _ in reply.ListFields()] == ["request_id", "plan"]


async def test_refusals_are_those_of_the_stream() -> None:
    """All violations at once, trailers only, counted like those of GenerateImage."""
    async with serving() as (edge, process):
        fields: dict[str, Any] = {
            "prompt": CANARY,
            "num_images": 0,
            "use_generation": False,
            "on_disconnect": 9,
            "request_id": "r",
        }
        call = edge.stub.RenderImage(rendering(**fields))
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        status, details = rich_status(error)
        violations = {v.field: v.description for v in details["BadRequest"].field_violations}
        assert set(violations) == {"num_images", "on_disconnect", "use_generation"}
        assert "no stock-photo source is configured" in violations["use_generation"]
        assert CANARY not in str(status)
        assert trailers(error)["x-request-id"] == "r"
        assert not list(await call.initial_metadata())
        missing = await refusal(edge.stub.RenderImage(pb.RenderImageRequest()))
        assert [v.field for v in rich_status(missing)[1]["BadRequest"].field_violations] == ["prompt"]
        assert edge.seen.rejections == [RejectReason.INVALID] * 2
        assert process.referee.accepted_ids == []


async def test_failures_are_those_of_the_stream() -> None:
    """What a generation ends with is the status of the call, and GetGeneration tells it afterwards."""
    async with serving() as (edge, _):
        error = await refusal(edge.stub.RenderImage(rendering(prompt=f"{CANARY} {{base:nan}}", request_id="nan")))
        assert rich_status(error)[1]["ErrorInfo"].reason == "NUMERIC"
        await edge.settled()
        found = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="nan"))
        assert (found.state, found.stage) == (pb.GENERATION_STATE_FAILED, pb.STAGE_BASE)
        assert (found.failure.code, found.failure.reason) == (grpc.StatusCode.INTERNAL.value[0], "NUMERIC")
        assert found.failure.message == error.details()
        assert found.end_time.ToNanoseconds() >= found.create_time.ToNanoseconds()
        assert CANARY not in str(found)


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
async def test_a_caller_that_leaves_stops_its_generation(how: str) -> None:
    """Cancelled calls, deadlines and closed connections end device work, as for a stream."""
    async with serving(timing=FakeTiming(evaluation=0.05)) as (edge, process):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            render = channel.unary_unary(
                "/imagegen.v1.ImageGen/RenderImage",
                request_serializer=pb.RenderImageRequest.SerializeToString,
                response_deserializer=pb.RenderImageResponse.FromString,
            )
            call = render(rendering(request_id="left"), timeout=0.3 if how == "deadline" else None)
            await until(lambda: bool(process.referee.accepted_ids))
            if how == "cancel":
                call.cancel()
            if how == "close":
                await channel.close(None)
            if how == "deadline":
                assert (await refusal(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(process.idle)
        found = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="left"))
        state = pb.GENERATION_STATE_FAILED if how == "deadline" else pb.GENERATION_STATE_CANCELLED
        assert found.state == state


async def test_a_running_generation_is_described() -> None:
    """State, stage and progress of a generation that runs; its plan; no outcome and no end yet."""
    async with serving(timing=FakeTiming(evaluation=0.05)) as (edge, _):
        call = edge.stub.GenerateImage(wanted(request_id="runs", prompt=CANARY, progress={"min_interval": {}}))
        plan = (await call.read()).accepted.plan
        while (message := await call.read()).WhichOneof("event") != "step_progress":
            pass
        found = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="runs"))
        assert (found.state, found.stage, found.plan) == (pb.GENERATION_STATE_RUNNING, pb.STAGE_BASE, plan)
        assert message.step_progress.overall_fraction <= found.overall_fraction < 1
        assert found.create_time.seconds > 1_600_000_000
        assert not found.HasField("completed")
        assert not found.HasField("end_time")
        assert CANARY not in str(found)
        cancelled = await edge.stub.CancelGeneration(pb.CancelGenerationRequest(request_id="runs"))
        assert cancelled.state == pb.GENERATION_STATE_CANCELLED


async def test_what_was_cancelled_is_described_as_such_at_once() -> None:
    """Not only once the device has left it, a step later: the answer to the cancel is true."""
    async with serving() as (edge, process):
        call = edge.stub.GenerateImage(wanted("a cat {base:stall=1@3}", request_id="g"))
        await call.read()
        await until(lambda: process.referee.steps["g"] == 3)
        cancelled = await edge.stub.CancelGeneration(pb.CancelGenerationRequest(request_id="g"))
        found = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="g"))
        assert not process.idle()
        assert found.state == cancelled.state == pb.GENERATION_STATE_CANCELLED
        assert (found.stage, found.failure.reason) == (pb.STAGE_BASE, "CANCELLED")
        assert found.end_time.ToNanoseconds() >= found.create_time.ToNanoseconds()
        error = await refusal(drained(edge.stub.GenerateImage(wanted("another", request_id="g"))))
        assert (error.code(), error.details()) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "a generation with this request_id is being stopped",
        )
        assert (await refusal(read_on(call))).code() is grpc.StatusCode.CANCELLED
        await until(process.idle)
        later = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="g"))
        assert (later.state, later.stage, later.failure) == (found.state, found.stage, found.failure)
        assert later.end_time == found.end_time


async def test_a_finished_generation_is_described_as_its_stream_was() -> None:
    """The outcome is the very message that the stream ended with; images have their URLs; a queued one has no stage."""
    slow = FakeTiming(evaluation=0.05)  # so that the second waits when it is asked for, on a busy machine too
    async with serving(keep=shelf, max_running=1, timing=slow) as (edge, _):
        first = edge.stub.GenerateImage(wanted(request_id="first", num_images=2))
        await first.read()
        second = edge.stub.GenerateImage(wanted(request_id="second"))
        await second.read()
        waiting = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="second"))
        assert (waiting.state, waiting.stage, waiting.overall_fraction) == (1, pb.STAGE_QUEUED, 0.0)
        second.cancel()
        messages = []
        while (message := await first.read()) is not EOF:
            messages.append(message)
        await edge.settled()
        found = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="first"))
        assert found.completed == messages[-1].completed
        assert (found.state, found.overall_fraction) == (pb.GENERATION_STATE_COMPLETED, 1.0)
        assert [image.summary for image in found.images] == list(found.completed.images)
        assert [image.url for image in found.images] == ["http://shelf/first/0", ""]
        assert all(not image.data for image in found.images)


async def test_what_is_remembered_is_bounded() -> None:
    """Above the number of remembered generations the oldest is forgotten, and NOT_FOUND names it."""
    async with serving(recent=2) as (edge, _):
        for name in ("one", "two", "three"):
            await edge.stub.RenderImage(rendering(request_id=name))
        error = await refusal(edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="one")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        details = rich_status(error)[1]
        assert details["ResourceInfo"].resource_name == "one"
        assert details["ErrorInfo"].reason == "GENERATION_NOT_FOUND"
        assert (await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="two"))).state == 3
        bad = await refusal(edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="a b")))
        assert [v.field for v in rich_status(bad)[1]["BadRequest"].field_violations] == ["request_id"]


async def test_an_answer_that_cannot_be_one_message_is_refused() -> None:
    """The limit counts only when the bytes are asked for."""
    request = pb.GenerateImageRequest(prompt="x", request_id="x")
    for include, allowed in ((True, 2000), (False, 1)):
        reply = Reply(include_data=include, max_bytes=allowed)
        await reply.write(header(request, b"x" * 1000, 0))
        await reply.write(header(request, b"x" * 1000, 1))
    with pytest.raises(ReplyTooLarge, match="the images have 3000 bytes"):
        await Reply(include_data=True, max_bytes=2000).write(header(request, b"x" * 3000))


async def test_an_answer_is_refined_if_all_of_its_images_are() -> None:
    """One that had to do without makes the whole less than what was asked for."""
    request = pb.GenerateImageRequest(prompt="x", request_id="x")
    for refined in ((True, True), (True, False)):
        reply = Reply(include_data=False)
        for index in range(2):
            await reply.write(header(request, b"x", index))
        images = [pb.ImageSummary(image_index=index, refined=each) for index, each in enumerate(refined)]
        await reply.write(pb.GenerateImageResponse(completed=pb.Completed(images=images)))
        assert reply.message().refined is all(refined)


async def test_the_client_renders_and_gets() -> None:
    """The client's values say what the messages say; an answer above 4 MB passes."""
    async with serving(keep=shelf) as (edge, _), AsyncClient(f"127.0.0.1:{edge.port}") as client:
        options: types.GenerationKeywords = {"num_inference_steps": 20, "seed": 5, "request_id": "c"}
        options |= {"width": 1536, "height": 1024}
        result = await client.render("a cat", include_image_data=True, **options)
        (image,) = result.images
        assert image.data is not None
        assert len(image.data) == image.size_bytes == 1536 * 1024 * 3
        assert (image.url, result.plan.seed, result.outcome.fallbacks) == ("http://shelf/c/0", 5, ())
        found = await client.get("c")
        assert (found.state, found.outcome, found.failure) == ("completed", result.outcome, None)
        assert (found.plan, found.on_disconnect, found.stage) == (result.plan, "stop", "send")
        assert [kept.data for kept in found.images] == [None]
        with pytest.raises(ValueError, match="include_image_data=True"):
            found.images[0].save("x.png")
        with pytest.raises(errors.NotFoundError):
            await client.get("never")


async def test_a_rendering_that_failed_is_not_repeated() -> None:
    """A failure that asking again would repeat is the caller's at once, though it came before any message."""
    async with serving() as (edge, process), AsyncClient(f"127.0.0.1:{edge.port}") as client:
        with pytest.raises(errors.OutOfMemoryError):
            await client.render("a cat {base:oom}", num_inference_steps=20, request_id="r")
        assert process.referee.accepted_ids == ["r"]


async def test_a_rendering_whose_connection_breaks_is_asked_for_again() -> None:
    """The client repeats it with its id, and the server begins anew once the device has left the first attempt."""
    async with serving() as (edge, process):
        with cutting_proxy(edge.port) as proxy:
            async with AsyncClient(proxy.target) as client:
                stalling = "a cat {base:stall=1.5@3}"  # longer than the pause before the next attempt
                rendering = asyncio.ensure_future(client.render(stalling, num_inference_steps=20, request_id="r"))
                await until(lambda: process.referee.steps["r"] == 3)
                await asyncio.to_thread(proxy.cut)
                assert (await rendering).request_id == "r"
        assert process.referee.accepted_ids == ["r", "r"]
    assert process.referee.outcomes["r"] == [Outcome.CANCELLED, Outcome.OK]


async def test_a_rendering_that_is_cancelled_between_two_attempts_is_not_begun_anew() -> None:
    """Whoever was told CANCELLED can rely on it, though the call that waits had asked before."""
    async with serving() as (edge, process):
        engine = process.engine()
        with cutting_proxy(edge.port) as proxy:
            async with AsyncClient(proxy.target) as client, AsyncClient(f"127.0.0.1:{edge.port}") as other:
                stalling = "a cat {base:stall=3@3}"
                rendering = asyncio.ensure_future(client.render(stalling, num_inference_steps=20, request_id="r"))
                await until(lambda: process.referee.steps["r"] == 3)
                await asyncio.to_thread(proxy.cut)
                await until(lambda: bool(engine._ledger.active[("", "r")].on_ended))
                assert await other.cancel("r") is types.GenerationState.CANCELLED
                with pytest.raises(errors.GenerationCancelledError):
                    await rendering
        assert process.referee.accepted_ids == ["r"]
