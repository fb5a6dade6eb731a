"""GenerateImage over a real channel, in front of a scripted engine."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import ServerState, StreamSettings
from imagegen_server.core import FallbackKind, FallbackReason, RejectReason, Stage, Usage
from imagegen_server.engine import events
from support.edge import Edge, drained, reassembled, refusal, rich_status, running_edge, trailers
from support.scripted_engine import accepted, finished, image_ready

REQUEST = pb.GenerateImageRequest(prompt="a cat", seed=3)


async def test_stream_begins_with_the_plan_and_ends_completed(edge: Edge) -> None:
    """The first message is the plan of this very request, the last one its outcome."""
    messages = await drained(edge.stub.GenerateImage(REQUEST))
    assert [message.WhichOneof("event") for message in messages] == ["accepted", "completed"]
    plan = messages[0].accepted.plan
    assert (plan.model, plan.seed, plan.scheduler) == ("tiny", 3, "EulerDiscreteScheduler")
    assert [(stage.stage, stage.steps, stage.evaluations) for stage in plan.stages] == [
        (pb.STAGE_TEXT_ENCODE, 0, 0),
        (pb.STAGE_BASE, 50, 50),
        (pb.STAGE_VAE_DECODE, 0, 0),
    ]
    assert messages[0].accepted.queue_position == 2
    assert messages[0].accepted.estimated_duration.ToMilliseconds() == 3250
    assert messages[1].completed.total_duration.ToSeconds() == 4
    done = messages[1].completed
    assert (done.peak_memory_bytes, done.device_seconds, done.wasted_device_seconds) == (123, 2.5, 0.5)
    assert (done.energy_joules, done.images_per_joule) == (800.0, 0.0)  # it sent no image
    assert edge.engine.tickets[0].closed == [None]


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1234])
async def test_images_arrive_in_chunks(size: int) -> None:
    """Header, chunks of the configured size, and a summary that agrees with both."""
    async with running_edge(stream=StreamSettings(chunk_bytes=100)) as edge:
        files = [bytes(n % 251 for n in range(size)), b"second"]
        edge.engine.script = (accepted(), image_ready(files[1], 1), image_ready(files[0]), finished())
        messages = await drained(edge.stub.GenerateImage(REQUEST))
        assert reassembled(messages) == {index: data for index, data in enumerate(files) if data}
        headers = [m.image_header for m in messages if m.WhichOneof("event") == "image_header"]
        assert [(h.image_index, h.size_bytes) for h in headers] == [(1, 6), (0, size)]
        chunks = [m.image_chunk for m in messages if m.WhichOneof("event") == "image_chunk"]
        assert all(len(chunk.data) == 100 for chunk in chunks if chunk.image_index == 0 and chunk.offset + 100 <= size)
        completed = messages[-1].completed
        assert [(i.image_index, i.size_bytes) for i in completed.images] == [(0, size), (1, 6)]
        assert [i.sha256 for i in completed.images] == [headers[1].sha256, headers[0].sha256]
        assert [timing.stage for timing in completed.stage_timings] == [pb.STAGE_BASE, pb.STAGE_SEND]
        assert edge.engine.tickets[0].sent == [1, 0]


async def test_sequence_increases_without_repetition() -> None:
    """Numbers increase over all messages, though one image is one event and many messages, and its being kept none."""
    async with running_edge(stream=StreamSettings(chunk_bytes=10)) as edge:
        progress = events.StepProgress(
            stage=Stage.BASE, image_index=0, completed_steps=1, total_steps=50, overall_fraction=0.5, eta=None
        )
        kept = events.ImageKept(image_index=0, url="http://x/0")
        images = (image_ready(b"x" * 35), kept, progress, image_ready(b"y" * 15, 1))
        edge.engine.script = (accepted(), *images, finished())
        messages = await drained(edge.stub.GenerateImage(REQUEST))
        assert [message.sequence for message in messages] == list(range(1, 12))
        assert {message.request_id for message in messages} == {edge.engine.requests[0].request_id}
        assert all(message.event_time.seconds > 1_600_000_000 for message in messages)


async def test_request_id_is_echoed_in_initial_metadata(edge: Edge) -> None:
    """The caller's id is used; without one, the made one is told before the first message."""
    call = edge.stub.GenerateImage(pb.GenerateImageRequest(prompt="x", request_id="mine"))
    assert dict(tuple(await call.initial_metadata()))["x-request-id"] == "mine"
    await drained(call)
    call = edge.stub.GenerateImage(REQUEST)
    made = dict(tuple(await call.initial_metadata()))["x-request-id"]
    messages = await drained(call)
    assert messages[0].request_id == made
    assert len(made) == 36


async def test_plan_only(edge: Edge) -> None:
    """validate_only answers with the plan and admits nothing."""
    messages = await drained(edge.stub.GenerateImage(pb.GenerateImageRequest(prompt="x", validate_only=True)))
    assert [message.WhichOneof("event") for message in messages] == ["accepted"]
    assert edge.engine.tickets == []


async def test_invalid_request_is_refused_before_anything(edge: Edge) -> None:
    """All violations come at once, nothing is admitted, and there is no initial metadata to commit a retry."""
    call = edge.stub.GenerateImage(pb.GenerateImageRequest(request_id="mine", num_images=-1))
    error = await refusal(drained(call))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status, details = rich_status(error)
    assert status.message == error.details()
    assert [v.field for v in details["BadRequest"].field_violations] == ["prompt", "num_images"]
    assert details["RequestInfo"].request_id == "mine"
    assert trailers(error)["x-request-id"] == "mine"
    assert not list(await call.initial_metadata())
    assert edge.engine.submissions == []
    assert edge.seen.rejections == [RejectReason.INVALID]


async def test_refusals_while_loading_are_counted(edge: Edge) -> None:
    """A server that is asked too early refuses with a time to retry, and its operator learns of it."""
    edge.backend.serving = ServerState.LOADING
    error = await refusal(drained(edge.stub.GenerateImage(REQUEST)))
    render = await refusal(edge.stub.RenderImage(pb.RenderImageRequest(generation=REQUEST)))
    for refused in (error, render):
        details = rich_status(refused)[1]
        assert (refused.code(), details["ErrorInfo"].reason) == (grpc.StatusCode.UNAVAILABLE, "LOADING")
        assert details["RetryInfo"].retry_delay.seconds > 0
    assert edge.seen.rejections == [RejectReason.LOADING] * 2


@pytest.mark.parametrize("why", ["loading", "a bad field", "no such model", "the plan"])
async def test_a_dry_run_is_no_generation_that_is_refused(edge: Edge, why: str) -> None:
    """Whatever refuses it, before its plan or by it, it is counted as a call and as nothing else."""
    request = pb.GenerateImageRequest(prompt="x", validate_only=True)
    if why == "loading":
        edge.backend.serving = ServerState.LOADING
    elif why == "a bad field":
        request.num_images = -1
    elif why == "no such model":
        request.model = "nowhere"
    else:
        edge.engine.raises = errors.RefinerUnavailable("this server has no refiner")
    await refusal(drained(edge.stub.GenerateImage(request)))
    await refusal(edge.stub.RenderImage(pb.RenderImageRequest(generation=request)))
    assert edge.seen.rejections == []
    await edge.settled()
    assert len(edge.seen.codes) == 2


@pytest.mark.parametrize("validate_only", [False, True])
async def test_refusal_of_the_engine_reaches_the_caller(edge: Edge, validate_only: bool) -> None:
    """What admission raises is sent trailers-only, with its details."""
    edge.engine.raises = errors.QueueFull(4, 2.5)
    call = edge.stub.GenerateImage(pb.GenerateImageRequest(prompt="x", validate_only=validate_only))
    error = await refusal(drained(call))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert trailers(error)["grpc-retry-pushback-ms"] == "2500"
    assert not list(await call.initial_metadata())


@pytest.mark.parametrize(
    ("metadata", "given", "pushback"),
    [((), 60.0, "2500"), ((), 2.0, "-1"), ((("x-goes-elsewhere", "QUEUE_FULL"),), 60.0, "-1")],
)
async def test_a_refusal_knows_what_its_caller_does_next(
    edge: Edge, metadata: tuple[tuple[str, str], ...], given: float, pushback: str
) -> None:
    """gRPC's own retry is forbidden to a call that has no time for it, or goes to another server."""
    edge.engine.raises = errors.QueueFull(4, 2.5)
    error = await refusal(drained(edge.stub.GenerateImage(REQUEST, metadata=metadata, timeout=given)))
    assert trailers(error)["grpc-retry-pushback-ms"] == pushback


async def test_what_has_ended_begins_anew(edge: Edge) -> None:
    """The same request, of a generation that outlives its call, attaches to what runs, not to what is over."""
    request = pb.GenerateImageRequest(prompt="a cat", request_id="g", on_disconnect=pb.ON_DISCONNECT_CONTINUE)
    for _ in range(2):
        messages = await drained(edge.stub.GenerateImage(request))
        assert messages[-1].HasField("completed")
    assert len(edge.engine.submissions) == 2


async def test_failure_of_a_generation_ends_the_stream(edge: Edge) -> None:
    """A generation that ends with an error ends the call with its row of the table."""
    edge.engine.script = (accepted(), finished(errors.NonFinite("the base produced NaN")))
    error = await refusal(drained(edge.stub.GenerateImage(REQUEST)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert rich_status(error)[1]["ErrorInfo"].reason == "NUMERIC"
    assert isinstance(edge.engine.tickets[0].closed[0], errors.NonFinite)
    assert edge.seen.bugs == []


@pytest.mark.parametrize("where", ["submit", "stream", "after its call"])
async def test_bug_is_reported_once_and_hidden(edge: Edge, where: str) -> None:
    """An unforeseen exception is INTERNAL with a request id to quote, and one report for the log."""
    bug = KeyError("/srv/secret.py")
    if where == "submit":
        edge.engine.raises = bug
    else:
        edge.engine.script = (accepted(), finished(bug))
    request = pb.GenerateImageRequest(prompt="a cat")
    if where == "after its call":
        request.on_disconnect = pb.ON_DISCONNECT_CONTINUE
    error = await refusal(drained(edge.stub.GenerateImage(request)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in repr(error)
    _, details = rich_status(error)
    assert set(details) == {"ErrorInfo", "RequestInfo"}
    assert edge.seen.bugs == [("GenerateImage", details["RequestInfo"].request_id, bug)]


async def test_fallbacks_are_told_when_taken_and_at_the_end(edge: Edge) -> None:
    """A fallback is an event of its own and part of the outcome."""
    taken = events.FallbackTaken(
        image_index=0,
        kind=FallbackKind.REFINER_TO_BASE,
        from_stage=Stage.REFINER,
        to_stage=Stage.BASE,
        reason=FallbackReason.OOM,
        message="the refiner ran out of memory",
    )
    unknown = Usage(device_seconds=1.0, wasted_device_seconds=0.0, energy_joules=None, peak_memory_bytes=None)
    done = events.Finished(error=None, stage_timings=(), usage=unknown, fallbacks=(taken,))
    edge.engine.script = (accepted(), taken, done)
    messages = await drained(edge.stub.GenerateImage(REQUEST))
    assert messages[1].fallback == messages[2].completed.fallbacks[0]
    assert messages[1].fallback.reason == pb.FALLBACK_REASON_OOM
    assert not messages[2].completed.HasField("peak_memory_bytes")
    assert not messages[2].completed.HasField("energy_joules")
    assert not messages[2].completed.HasField("images_per_joule")
