"""The edge in front of the real engine with the fake runner: whole generations over a real channel."""

from __future__ import annotations

import asyncio
import hashlib
import random

import grpc
import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.core import (
    Outcome,
    RejectReason,
)
from imagegen_server.models.fake.script import FakeTiming
from support.edge import EOF, drained, refusal, rich_status, trailers
from support.engine_edge import kinds, serving, wanted
from support.waiting import until


async def test_generation_of_two_images_end_to_end() -> None:
    """Plan, stages, progress, both files and the outcome, in an order that holds for every caller."""
    async with serving() as (edge, process):
        request = wanted(num_images=2, progress={"min_interval": {}}, refiner={"num_inference_steps": 7})
        messages = await drained(edge.stub.GenerateImage(request))
        seen = kinds(messages)
        assert (seen[0], seen[-1], seen.count("completed")) == ("accepted", "completed", 1)
        sequences = [message.sequence for message in messages]
        assert sequences == sorted(set(sequences))
        steps = {(s.stage, s.steps) for s in messages[0].accepted.plan.stages if s.steps}
        assert steps == {(pb.STAGE_BASE, 20), (pb.STAGE_REFINER, 7)}
        ended = [(m.stage_completed.stage, m.stage_completed.steps) for m in messages if m.HasField("stage_completed")]
        assert ended.count((pb.STAGE_BASE, 20)) == 2
        assert ended.count((pb.STAGE_REFINER, 7)) == 2
        files: dict[int, bytes] = {0: b"", 1: b""}
        for message in messages:
            if message.HasField("image_chunk"):
                assert message.image_chunk.offset == len(files[message.image_chunk.image_index])
                files[message.image_chunk.image_index] += message.image_chunk.data
        completed = messages[-1].completed
        assert [image.seed for image in completed.images] == [5, 6]
        assert [image.sha256 for image in completed.images] == [hashlib.sha256(files[n]).hexdigest() for n in (0, 1)]
        assert all(image.refined for image in completed.images)
        stages = [timing.stage for timing in completed.stage_timings]
        assert {pb.STAGE_QUEUED, pb.STAGE_TEXT_ENCODE, pb.STAGE_BASE, pb.STAGE_REFINER, pb.STAGE_SEND} <= set(stages)
        assert len(stages) == len(set(stages))
    assert list(process.referee.outcomes.values()) == [[Outcome.OK]]


@pytest.mark.parametrize("fault", ["oom", "nan", "error"])
async def test_refiner_fault_is_degraded_not_failed(fault: str) -> None:
    """The base's image arrives; the event and the outcome say the same."""
    async with serving() as (edge, process):
        messages = await drained(edge.stub.GenerateImage(wanted(f"a cat {{refiner:{fault}@2}}")))
        taken = [message.fallback for message in messages if message.HasField("fallback")]
        assert [event.reason for event in taken] == [pb.FallbackReason.Value(f"FALLBACK_REASON_{fault.upper()}")]
        completed = messages[-1].completed
        assert list(completed.fallbacks) == taken
        assert [image.refined for image in completed.images] == [False]
    assert list(process.referee.outcomes.values()) == [[Outcome.DEGRADED]]


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("base:oom", grpc.StatusCode.RESOURCE_EXHAUSTED, "GPU_OUT_OF_MEMORY"),
        ("base:nan@3", grpc.StatusCode.INTERNAL, "NUMERIC"),
        ("refiner:oom", grpc.StatusCode.RESOURCE_EXHAUSTED, "GPU_OUT_OF_MEMORY"),
    ],
)
async def test_fault_without_fallback_ends_the_call(fault: str, code: grpc.StatusCode, reason: str) -> None:
    """A failure that no fallback covers, or that the caller allows none for, has its row of the table."""
    async with serving() as (edge, _):
        request = wanted(f"a cat {{{fault}}}", allowed_fallbacks={})
        error = await refusal(drained(edge.stub.GenerateImage(request)))
        assert error.code() is code
        assert rich_status(error)[1]["ErrorInfo"].reason == reason


async def test_missing_refiner() -> None:
    """Without a refiner the fallback is taken if allowed, and the request refused if not."""
    async with serving(refiner=False) as (edge, _):
        messages = await drained(edge.stub.GenerateImage(wanted()))
        assert [taken.reason for taken in messages[-1].completed.fallbacks] == [pb.FALLBACK_REASON_NOT_LOADED]
        error = await refusal(drained(edge.stub.GenerateImage(wanted(allowed_fallbacks={}))))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_full_queue_is_refused_with_a_time_to_retry() -> None:
    """What does not fit is refused at once with RetryInfo and pushback, and counted."""
    slow = FakeTiming(evaluation=0.02)
    async with serving(timing=slow, queue_capacity=1, max_running=1) as (edge, process):
        calls = [edge.stub.GenerateImage(wanted()) for _ in range(12)]
        ends = await asyncio.gather(*(drained(call) for call in calls), return_exceptions=True)
        refused = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < 12
        for error in refused:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert rich_status(error)[1]["RetryInfo"].retry_delay.ToMilliseconds() > 0
            assert int(trailers(error)["grpc-retry-pushback-ms"]) > 0
        assert process.referee.rejections[RejectReason.QUEUE_FULL] == len(refused)


async def test_cancel_by_id_ends_the_other_call() -> None:
    """CancelGeneration from anywhere ends the stream with CANCELLED; asking again changes nothing."""
    async with serving(timing=FakeTiming(evaluation=0.02)) as (edge, _):
        call = edge.stub.GenerateImage(wanted(request_id="mine"))
        await call.read()
        cancel = pb.CancelGenerationRequest(request_id="mine")
        assert (await edge.stub.CancelGeneration(cancel)).state == pb.GENERATION_STATE_CANCELLED

        async def rest() -> None:
            while await call.read() is not EOF:
                pass

        error = await refusal(rest())
        assert error.code() is grpc.StatusCode.CANCELLED
        assert (await edge.stub.CancelGeneration(cancel)).state == pb.GENERATION_STATE_CANCELLED
        unknown = await refusal(edge.stub.CancelGeneration(pb.CancelGenerationRequest(request_id="other")))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND


async def test_request_id_with_another_body_is_refused() -> None:
    """An id that runs belongs to its body."""
    async with serving(timing=FakeTiming(evaluation=0.02)) as (edge, _):
        call = edge.stub.GenerateImage(wanted(request_id="mine"))
        await call.read()
        error = await refusal(drained(edge.stub.GenerateImage(wanted("something else", request_id="mine"))))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        call.cancel()


async def test_deadline_that_cannot_be_met_is_refused_with_the_estimate() -> None:
    """Once costs are known, a hopeless request is refused at admission."""
    async with serving(timing=FakeTiming(evaluation=0.01)) as (edge, process):
        await drained(edge.stub.GenerateImage(wanted()))
        hopeless = wanted(num_inference_steps=100, refiner={"num_inference_steps": 100}, allowed_fallbacks={})
        error = await refusal(drained(edge.stub.GenerateImage(hopeless, timeout=1.2)))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        info = rich_status(error)[1]["ErrorInfo"]
        assert info.reason == "DEADLINE_CANNOT_BE_MET"
        assert float(info.metadata["estimate_seconds"]) > float(info.metadata["remaining_seconds"])
        assert process.referee.rejections[RejectReason.DEADLINE] == 1


async def test_plan_costs_nothing() -> None:
    """validate_only answers while nothing is admitted."""
    async with serving() as (edge, process):
        messages = await drained(edge.stub.GenerateImage(wanted(validate_only=True)))
        assert kinds(messages) == ["accepted"]
        assert process.referee.accepted_ids == []


async def test_callers_that_leave_at_random_moments_leave_nothing_behind() -> None:
    """Cancelled calls, passed deadlines and closed connections at random phases: the engine ends up empty."""
    chance = random.Random(7)  # repeatable, not secret
    async with serving(queue_capacity=500) as (edge, process):

        async def leave(how: str, after: float) -> None:
            request = wanted(num_images=2)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
                generate = channel.unary_stream(
                    "/imagegen.v1.ImageGen/GenerateImage",
                    request_serializer=pb.GenerateImageRequest.SerializeToString,
                    response_deserializer=pb.GenerateImageResponse.FromString,
                )
                call = generate(request, timeout=after if how == "deadline" else None)
                reading = asyncio.ensure_future(drained(call))
                if how != "deadline":
                    await asyncio.sleep(after)
                if how == "cancel":
                    call.cancel()
                if how == "close":
                    await channel.close(None)
                await asyncio.gather(reading, return_exceptions=True)

        ways = [chance.choice(("cancel", "deadline", "close")) for _ in range(120)]
        await asyncio.gather(*(leave(how, 0.001 + chance.random() * 0.3) for how in ways))
        await edge.settled()
        await until(process.idle)
        assert len(await drained(edge.stub.GenerateImage(wanted()))) > 5
    allowed = {Outcome.OK, Outcome.DEGRADED, Outcome.CANCELLED, Outcome.DEADLINE}
    assert {outcome for outcomes in process.referee.outcomes.values() for outcome in outcomes} <= allowed
