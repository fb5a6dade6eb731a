"""Deadlines that pass, over a real channel: the caller learns in which stage and at which step, whatever the call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.core import EncodedImage, GenerationRequest, Outcome, Pixels
from imagegen_server.models.fake.script import FakeTiming
from support.edge import Edge, drained, own_channel, read_on, refusal, rich_status
from support.engine_edge import encode, serving, wanted
from support.load import NARROW
from support.waiting import until

EARLY = 0.1
"""Seconds before the deadline: more than the server's, so that a busy machine's answers arrive in time as well."""
GIVEN = 1.0
"""Seconds that callers give; a tenth of it is EARLY."""
PATIENT = 5.0
"""The same where the status has a fifth of that time: once a generation has left the device."""
CONTINUE: dict[str, Any] = {"on_disconnect": pb.ON_DISCONNECT_CONTINUE}


def calling(edge: Edge, method: str, timeout: float, **fields: Any) -> Awaitable[Any]:
    """Returns a call that generates, by either method."""
    request = wanted(refiner={"num_inference_steps": 5}, allowed_fallbacks={}, **fields)
    if method == "GenerateImage":
        return drained(edge.stub.GenerateImage(request, timeout=timeout))
    call: Awaitable[Any] = edge.stub.RenderImage(pb.RenderImageRequest(generation=request), timeout=timeout)
    return call


def told(error: grpc.aio.AioRpcError) -> tuple[str, str, str]:
    """Returns reason, stage and step of a call whose deadline passed."""
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    info = rich_status(error)[1]["ErrorInfo"]
    return info.reason, info.metadata["stage"], info.metadata["step"]


async def state_of(edge: Edge, request_id: str) -> pb.GetGenerationResponse:
    """Returns what GetGeneration says."""
    answer: pb.GetGenerationResponse = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id=request_id))
    return answer


@pytest.mark.parametrize("method", ["GenerateImage", "RenderImage"])
@pytest.mark.parametrize(
    ("stage", "fault", "step"),
    [("text_encode", "", "0"), ("base", "@3", "3"), ("refiner", "@2", "2"), ("vae_decode", "", "0")],
)
async def test_a_passed_deadline_tells_where(method: str, stage: str, fault: str, step: str) -> None:
    """In each stage of the device, though it is in the middle of a step; GetGeneration tells the same."""
    async with serving(early=EARLY) as (edge, process):
        prompt = f"a cat {{{stage}:stall={GIVEN + 0.5:g}{fault}}}"
        error = await refusal(calling(edge, method, GIVEN, prompt=prompt, request_id="g"))
        assert told(error) == ("DEADLINE_PASSED", stage, step)
        assert not process.idle()
        found = await state_of(edge, "g")
        assert (found.state, found.stage) == (pb.GENERATION_STATE_FAILED, pb.Stage.Value(f"STAGE_{stage.upper()}"))
        assert (found.failure.reason, found.failure.message) == ("DEADLINE_PASSED", error.details())
        assert f"in stage {stage} after {step} steps" in found.failure.message
    assert process.referee.outcomes == {"g": [Outcome.DEADLINE]}
    assert edge.seen.codes[0][1] is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("method", ["GenerateImage", "RenderImage"])
async def test_a_deadline_that_passes_in_the_queue(method: str) -> None:
    """Before the first turn as well, behind a step that takes longer than the caller waits."""
    async with serving(early=EARLY, max_running=1) as (edge, process):
        first = edge.stub.GenerateImage(wanted(f"a cat {{base:stall={GIVEN + 0.5:g}@3}}", request_id="first"))
        await first.read()
        await until(lambda: process.referee.steps["first"] == 3)
        error = await refusal(calling(edge, method, GIVEN, request_id="g"))
        assert told(error) == ("DEADLINE_PASSED", "queued", "0")
        assert (await state_of(edge, "g")).stage == pb.STAGE_QUEUED
        first.cancel()
    assert process.referee.outcomes["g"] == [Outcome.DEADLINE]


async def test_a_deadline_that_passes_while_files_are_made() -> None:
    """Off the device a generation has a little longer, but not for ever."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(pixels: Pixels, request: GenerationRequest, image_index: int, **how: Any) -> EncodedImage:
        asyncio.run_coroutine_threadsafe(done.wait(), loop).result()
        return encode(pixels, request, image_index, **how)

    async with serving(early=PATIENT / 10, encode=slow) as (edge, process):
        error = await refusal(calling(edge, "RenderImage", PATIENT, request_id="g"))
        assert told(error) == ("DEADLINE_PASSED", "image_encode", "0")
        done.set()
    assert process.referee.outcomes == {"g": [Outcome.DEADLINE]}


async def test_a_deadline_that_passes_while_an_image_is_sent() -> None:
    """A caller who reads what was sent until then finds the status behind it."""
    async with serving(early=PATIENT / 10) as (edge, process), own_channel(edge.port, *NARROW) as stub:
        call = stub.GenerateImage(wanted(request_id="g", width=1024, height=1024), timeout=PATIENT)
        await call.read()
        while "g" not in process.referee.outcomes:
            await asyncio.sleep(0.001)
        error = await refusal(read_on(call))
        assert told(error) == ("DEADLINE_PASSED", "send", "0")
        assert (await state_of(edge, "g")).stage == pb.STAGE_SEND
    assert process.referee.outcomes == {"g": [Outcome.DEADLINE]}


@pytest.mark.parametrize("method", ["GenerateImage", "RenderImage", "WatchGeneration"])
async def test_a_call_that_a_generation_outlives_ends_as_well(method: str) -> None:
    """It tells how far the generation came, and that it goes on, which it does."""
    async with serving(early=EARLY) as (edge, process):
        request = {"prompt": f"a cat {{base:stall={GIVEN + 0.5:g}@3}}", "request_id": "g", **CONTINUE}
        if method == "WatchGeneration":
            await edge.stub.GenerateImage(wanted(**request)).read()
            watch = pb.WatchGenerationRequest(request_id="g")
            error = await refusal(drained(edge.stub.WatchGeneration(watch, timeout=GIVEN)))
        else:
            error = await refusal(calling(edge, method, GIVEN, **request))
        assert told(error) == ("DEADLINE_PASSED", "base", "3")
        assert "the generation goes on" in str(error.details())
        assert (await state_of(edge, "g")).state == pb.GENERATION_STATE_RUNNING
    assert process.referee.outcomes == {"g": [Outcome.OK]}


async def test_what_was_cancelled_by_then_is_told_so() -> None:
    """The time of a call may be up before the device has left what was cancelled: its caller learns the cancel."""
    async with serving(early=EARLY) as (edge, process):
        prompt = f"a cat {{base:stall={GIVEN + 0.5:g}@3}}"
        call = asyncio.ensure_future(refusal(calling(edge, "RenderImage", GIVEN, prompt=prompt, request_id="g")))
        await until(lambda: process.referee.steps["g"] == 3)
        await edge.stub.CancelGeneration(pb.CancelGenerationRequest(request_id="g"))
        assert (await call).code() is grpc.StatusCode.CANCELLED
        assert not process.idle()
    assert process.referee.outcomes == {"g": [Outcome.CANCELLED]}


async def test_the_engine_plans_for_the_time_that_a_call_has() -> None:
    """What would be ready only when its call has ended is refused with the estimate, or done without the refiner."""
    async with serving(timing=FakeTiming(evaluation=0.01), early=EARLY) as (edge, _):
        await calling(edge, "GenerateImage", 60.0)  # from now on, costs are known
        error = await refusal(calling(edge, "GenerateImage", 0.2))
        info = rich_status(error)[1]["ErrorInfo"]
        assert info.reason == "DEADLINE_CANNOT_BE_MET"
        assert float(info.metadata["remaining_seconds"]) < 0.19


async def test_a_repeated_call_that_waits_for_its_first_attempt() -> None:
    """It is not begun by then, and says so."""
    async with serving(early=EARLY) as (edge, process):
        request: dict[str, Any] = {"prompt": f"a cat {{base:stall={GIVEN + 1:g}@3}}", "request_id": "g"}
        first = asyncio.ensure_future(calling(edge, "RenderImage", 60.0, **request))
        await until(lambda: process.referee.steps["g"] == 3)
        first.cancel()
        await edge.settled()
        error = await refusal(calling(edge, "RenderImage", GIVEN, **request))
        assert told(error) == ("DEADLINE_PASSED", "queued", "0")
    assert process.referee.accepted_ids == ["g"]
