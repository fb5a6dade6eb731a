"""A server process that sends its spans to a collector: what arrives for each way in which a call can end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from support.live_server import LiveServer, live_server, open_channel
from support.load import Ended, generate, request, slow_steps
from support.otlp import Collector, Span, collector, new_parent
from support.waiting import eventually

STAGES = ["queued", "text_encode", "base", "refiner", "vae_decode", "image_encode", "send"]
METHOD = "imagegen.v1.ImageGen/GenerateImage"


class Traced:
    """A server with tracing on, its collector, and a channel."""

    def __init__(self, server: LiveServer, seen: Collector, channel: grpc.Channel) -> None:
        self.server = server
        self.seen = seen
        self.channel = channel

    def generate(
        self, message: pb.GenerateImageRequest, timeout: float | None = None
    ) -> tuple[Ended, Span, list[Span]]:
        """Makes a call as the child of a new trace; returns how it ended, its span and those of its stages."""
        trace_id, span_id, metadata = new_parent()
        ended = generate(self.channel, message, timeout=timeout, metadata=metadata)
        call = self.call_of(trace_id)
        assert call.parent_id == span_id
        return ended, call, self.seen.stages(trace_id)

    def call_of(self, trace_id: str) -> Span:
        """Waits for the span of a call. Its stages have ended before it and are sent with it or earlier."""
        eventually(lambda: self.seen.call(trace_id) is not None, "no span of the call arrived")
        call = self.seen.call(trace_id)
        assert call is not None
        return call


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A server that sends every span of a trace soon."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds; the default of 5 s would only make tests slow
        seen = stack.enter_context(collector())
        directory = tmp_path_factory.mktemp("traced")
        arguments = ["--tracing", "otlp", "--tracing-endpoint", seen.endpoint, "--max-running", "2"]
        server = stack.enter_context(live_server(directory, *arguments, "--queue-capacity", "64"))
        yield Traced(server, seen, stack.enter_context(open_channel(server.address)))


def _by_stage(spans: list[Span]) -> dict[str, list[Span]]:
    return {stage: [span for span in spans if span.name == stage] for stage in {span.name for span in spans}}


def test_a_generation_is_a_span_with_a_child_for_each_stage(traced: Traced) -> None:
    """The call's span has the caller's as parent and describes the request; each stage's span lies within it."""
    asked = request("a cat", request_id="traced-1", seed=7, num_inference_steps=20, refiner_steps=4)
    ended, call, stages = traced.generate(asked)
    assert ended.ok
    assert (call.name, call.kind, call.error, call.events) == (METHOD, "SERVER", False, [])
    assert (
        call.attributes.items()
        >= {
            "rpc.system": "grpc",
            "rpc.service": "imagegen.v1.ImageGen",
            "rpc.method": "GenerateImage",
            "rpc.grpc.status_code": 0,
            "imagegen.request_id": "traced-1",
            "imagegen.model": "fake",
            "imagegen.width": 64,
            "imagegen.height": 64,
            "imagegen.images": 1,
            "imagegen.seed": 7,
            "imagegen.base_steps": 20,
            "imagegen.refiner_steps": 4,
            "imagegen.refiner_mode": "image_to_image",
            "imagegen.priority": "interactive",
            "imagegen.precision": "fp32",
            "imagegen.outcome": "ok",
        }.items()
    )
    for name in ("imagegen.queue_wait_seconds", "imagegen.first_progress_seconds"):
        assert 0 <= call.attributes[name] <= (call.end - call.begin) / 1e9
    assert 0 < call.attributes["imagegen.device_seconds"] <= (call.end - call.begin) / 1e9
    assert [span.name for span in stages] == STAGES
    assert {span.parent_id for span in stages} == {call.span_id}
    assert {span.attributes["imagegen.outcome"] for span in stages} == {"ok"}
    assert all(call.begin <= span.begin <= span.end <= call.end for span in stages)
    assert [span.image_index for span in stages] == [None, None, 0, 0, 0, 0, 0]
    assert [span.attributes.get("imagegen.steps") for span in stages] == [None, None, 20, 4, None, None, None]
    assert not any(span.error for span in stages)


def test_each_image_has_its_stages(traced: Traced) -> None:
    """With several images, each has a span for each stage of its own; text and queue are shared."""
    _, call, stages = traced.generate(request("two cats", num_images=3))
    assert call.attributes["imagegen.images"] == 3
    for stage, spans in _by_stage(stages).items():
        shared = stage in ("queued", "text_encode")
        assert sorted(span.image_index or 0 for span in spans) == ([0] if shared else [0, 1, 2]), stage


@pytest.mark.parametrize(("fault", "reason"), [("oom", "oom"), ("nan", "nan"), ("error", "error")])
def test_a_fallback_is_an_event(traced: Traced, fault: str, reason: str) -> None:
    """The call's span tells of the fallback, the refiner's is an error, and the call itself is none."""
    ended, call, stages = traced.generate(request(f"a cat {{refiner:{fault}@2}}"))
    assert ended.ok
    assert call.events == [
        (
            "fallback",
            {
                "imagegen.fallback.kind": "refiner_to_base",
                "imagegen.fallback.from_stage": "refiner",
                "imagegen.fallback.to_stage": "base",
                "imagegen.fallback.reason": reason,
            },
        )
    ]
    assert (call.attributes["imagegen.outcome"], call.error) == ("degraded", False)
    assert [span.name for span in stages if span.error] == ["refiner"]


def test_a_failed_generation_is_an_error(traced: Traced) -> None:
    """The span has the status code, the kind of error as its status, and the failed stage's span is an error too."""
    ended, call, stages = traced.generate(request("a cat {base:nan@3}"))
    assert ended.reason == "NUMERIC"
    assert (call.error, call.description, call.attributes["error.type"]) == (True, "NonFinite", "NonFinite")
    assert call.attributes["rpc.grpc.status_code"] == ended.code.value[0]
    assert call.attributes["imagegen.outcome"] == "error"
    assert [(span.name, span.error) for span in stages] == [("queued", False), ("text_encode", False), ("base", True)]


def test_a_deadline_that_passes(traced: Traced) -> None:
    """The stage that was interrupted is in the trace, with the outcome, and both are errors."""
    ended, call, stages = traced.generate(request("a cat {base:stall=0.6@1}{base:stall=0.6@2}"), timeout=0.8)
    assert ended.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (call.attributes["imagegen.outcome"], call.error) == ("deadline", True)
    assert call.attributes["rpc.grpc.status_code"] == 4
    assert (stages[-1].name, stages[-1].attributes["imagegen.outcome"], stages[-1].error) == ("base", "deadline", True)


def _cancelled_in_base(traced: Traced, stop: Callable[[Any, str], object]) -> tuple[Span, list[Span]]:
    """Stops a generation once its base runs; returns its spans."""
    trace_id, _, metadata = new_parent()
    asked = request("a cat " + slow_steps(0.05, base=20), request_id=f"stop-{trace_id}")
    call = pb_grpc.ImageGenStub(traced.channel).GenerateImage(asked, metadata=metadata)
    next(event for event in call if event.WhichOneof("event") == "step_progress")
    stop(call, asked.request_id)
    assert call.code() is grpc.StatusCode.CANCELLED
    return traced.call_of(trace_id), traced.seen.stages(trace_id)


def _cancel_by_id(traced: Traced) -> Callable[[Any, str], object]:
    stub = pb_grpc.ImageGenStub(traced.channel)
    return lambda _, request_id: stub.CancelGeneration(pb.CancelGenerationRequest(request_id=request_id))


@pytest.mark.parametrize("way", ["call", "id"])
def test_a_cancelled_generation_is_no_error(traced: Traced, way: str) -> None:
    """Whether its caller leaves or it is cancelled by id: every span of it ends, and says cancelled."""
    stop = _cancel_by_id(traced) if way == "id" else lambda call, _: call.cancel()
    call, stages = _cancelled_in_base(traced, stop)
    assert (call.attributes["imagegen.outcome"], call.error) == ("cancelled", False)
    assert call.attributes["rpc.grpc.status_code"] == 1
    assert [span.name for span in stages] == ["queued", "text_encode", "base"]
    assert (stages[-1].attributes["imagegen.outcome"], stages[-1].error) == ("cancelled", False)
    assert all(span.end <= call.end for span in stages)


def test_a_cancel_in_the_queue(traced: Traced) -> None:
    """What is cancelled while it waits has a trace of the waiting."""
    blockers = [request("a cat " + slow_steps(0.05, base=20)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(generate, traced.channel, blocker) for blocker in blockers]
        eventually(lambda: traced.server.metrics().total("imagegen_requests_in_flight") == 2, "blockers do not run")
        trace_id, _, metadata = new_parent()
        waiting = pb_grpc.ImageGenStub(traced.channel).GenerateImage(request("a dog"), metadata=metadata)
        assert next(iter(waiting)).WhichOneof("event") == "accepted"
        waiting.cancel()
        call = traced.call_of(trace_id)
        assert all(each.result().ok for each in running)
    assert call.attributes["imagegen.outcome"] == "cancelled"
    assert [(span.name, span.attributes["imagegen.outcome"]) for span in traced.seen.stages(trace_id)] == [
        ("queued", "cancelled")
    ]


@pytest.mark.parametrize(
    ("asked", "code", "outcome"),
    [
        (request("a cat", width=63), 3, "invalid"),
        (request("a cat", model="nope"), 5, "invalid"),
        (request("a cat", validate_only=True), 0, None),
    ],
    ids=["invalid", "not found", "plan only"],
)
def test_a_call_without_a_generation(
    traced: Traced, asked: pb.GenerateImageRequest, code: int, outcome: str | None
) -> None:
    """A refusal, and a call that only asks for the plan, are spans with a status and without stages."""
    _, call, stages = traced.generate(asked)
    assert call.attributes["rpc.grpc.status_code"] == code
    assert call.attributes.get("imagegen.outcome") == outcome
    assert call.attributes.get("imagegen.reject_reason") == outcome
    assert (call.error, stages) == (False, [])


def test_a_request_id_in_use(traced: Traced) -> None:
    """A second call with the id of a running generation has its own trace, and leaves the first one's whole."""
    first, second = new_parent(), new_parent()
    asked = request("a cat " + slow_steps(0.05, base=20), request_id="twice")
    running = pb_grpc.ImageGenStub(traced.channel).GenerateImage(asked, metadata=first[2])
    assert next(iter(running)).WhichOneof("event") == "accepted"
    refused = generate(traced.channel, asked, metadata=second[2])
    for _ in running:
        pass
    assert refused.code is grpc.StatusCode.ALREADY_EXISTS
    duplicate, original = traced.call_of(second[0]), traced.call_of(first[0])
    assert (duplicate.attributes["rpc.grpc.status_code"], traced.seen.stages(second[0])) == (6, [])
    assert original.attributes["imagegen.outcome"] == "ok"
    assert [span.name for span in traced.seen.stages(first[0])] == STAGES
    lines = {line["trace_id"]: line for line in traced.server.log("rejected") if line["request_id"] == "twice"}
    assert list(lines) == [second[0]]


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("traceparent", "00-zz-1-01"),),
        (("traceparent", f"00-{'0' * 32}-{'1' * 16}-01"),),
        (("traceparent", f"ff-{'1' * 32}-{'1' * 16}-01"),),
        (("traceparent", "1" * 4000),),
        (("tracestate", "a=b"),),
    ],
    ids=["none", "malformed", "zero", "version ff", "long", "tracestate alone"],
)
def test_a_parent_that_is_none_begins_a_trace(traced: Traced, metadata: tuple[tuple[str, str], ...]) -> None:
    """Without a well-formed parent the call is served all the same, as the root of a new trace."""
    ended = generate(traced.channel, request("a cat"), metadata=metadata)
    assert ended.ok
    request_id = ended.events[0].request_id
    (line,) = [line for line in traced.server.log("accepted") if line["request_id"] == request_id]
    call = traced.call_of(line["trace_id"])
    assert (call.parent_id, call.trace_state) == ("", "")
    assert call.trace_id not in ("0" * 32, "1" * 32)
    assert {span.parent_id for span in traced.seen.stages(call.trace_id)} == {call.span_id}


def test_the_callers_tracestate_is_kept(traced: Traced) -> None:
    """Spans carry the vendors' entries of the caller."""
    trace_id, _, metadata = new_parent()
    generate(traced.channel, request("a cat"), metadata=(*metadata, ("tracestate", "vendor=x"), ("tracestate", "b=y")))
    assert traced.call_of(trace_id).trace_state == "vendor=x,b=y"


def test_concurrent_generations_keep_their_traces(traced: Traced) -> None:
    """Fifty callers at once, some cancelled: every stage's span belongs to the call of its own trace."""
    parents = [new_parent() for _ in range(50)]

    def one(number: int) -> grpc.StatusCode:
        asked = request(f"cat {number}", request_id=f"many-{number}", num_images=1 + number % 2)
        call = pb_grpc.ImageGenStub(traced.channel).GenerateImage(asked, metadata=parents[number][2])
        with suppress(grpc.RpcError):
            for event in call:
                if number % 7 == 0 and event.WhichOneof("event") == "step_progress":
                    call.cancel()
        return call.code()

    with ThreadPoolExecutor(50) as pool:
        codes = list(pool.map(one, range(50)))
    assert {code for number, code in enumerate(codes) if number % 7} == {grpc.StatusCode.OK}
    for number, (trace_id, span_id, _) in enumerate(parents):
        call, stages = traced.call_of(trace_id), traced.seen.stages(trace_id)
        assert (call.parent_id, call.attributes["imagegen.request_id"]) == (span_id, f"many-{number}")
        assert {span.parent_id for span in stages} == {call.span_id}
        names = sorted(span.name for span in stages)
        if number % 7:
            assert names == sorted(STAGES + (STAGES[2:] if number % 2 else [])), number
        else:
            assert len({(span.name, span.image_index) for span in stages}) == len(stages)
    eventually(traced.server.idle, "something is still in flight")


def test_lines_have_the_trace(traced: Traced) -> None:
    """Each line of a generation has the id of its trace, a refusal's too."""
    trace_id, _, metadata = new_parent()
    generate(traced.channel, request("a cat {refiner:oom}"), metadata=metadata)
    generate(traced.channel, request("a cat", width=63), metadata=metadata)

    def lines() -> set[str]:
        return {line["event"] for line in traced.server.log() if line.get("trace_id") == trace_id}

    expected = {"accepted", "stage ended", "fallback", "used", "ended", "rejected"}
    eventually(lambda: lines() >= expected, lambda: f"only {lines()}")
    generation = [line for line in traced.server.log("accepted") if line["trace_id"] == trace_id]
    request_id = generation[0]["request_id"]
    mine = [line for line in traced.server.log() if line.get("request_id") == request_id]
    assert {line.get("trace_id") for line in mine} == {trace_id}


def test_what_the_caller_does_not_sample_is_not_sent(traced: Traced) -> None:
    """The caller's decision holds: no span arrives, but the lines have its trace id."""
    trace_id, _, metadata = new_parent(sampled=False)
    assert generate(traced.channel, request("a cat", request_id="unsampled"), metadata=metadata).ok
    traced.generate(request("a dog"))  # sent after it, and has arrived
    assert traced.seen.of(trace_id) == []
    assert {line["trace_id"] for line in traced.server.log() if line.get("request_id") == "unsampled"} == {trace_id}


def test_the_process_is_described(traced: Traced) -> None:
    """Spans come from the service `imagegen`, with its version."""
    traced.generate(request("a cat"))
    assert {resource["service.name"] for resource in traced.seen.resources} == {"imagegen"}
    assert all(resource["service.version"] for resource in traced.seen.resources)


def test_no_span_has_a_prompt(traced: Traced) -> None:
    """Texts of the caller are in nothing that is sent, however the call ends."""
    canary = "kanarie-7c1f"
    texts = {
        "prompt_2": f"{canary} b",
        "negative_prompt": f"{canary} c",
        "negative_prompt_2": f"{canary} d",
    }
    faults = ["", "{refiner:oom}", "{base:error}", "{base:nan}", "{text_encode:error}", "{vae_decode:oom}"]
    for fault in faults:
        asked = request(f"{canary} {fault}", **texts)
        asked.refiner.prompt = f"{canary} e"
        traced.generate(asked)
    traced.generate(request(f"{canary} " + "word " * 100))  # longer than the text encoder's window
    for wrong in ({"width": 63}, {"model": canary}, {"scheduler": canary}, {"request_id": f"{canary} !"}):
        traced.generate(request(canary, **wrong))
    assert traced.seen.raw
    assert not any(canary.encode() in raw for raw in traced.seen.raw)
    log = Path(traced.server.directory / "server.log").read_text(encoding="utf-8")
    assert canary not in log
