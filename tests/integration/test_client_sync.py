"""The synchronous client against a real gRPC server whose answers are scripted."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextvars import ContextVar

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagegen import Client, errors, types
from imagegen.v1 import imagegen_pb2 as pb
from support import messages
from support.scripted_service import WAIT, Endless, ScriptedService, details, error_info, refuse, retry_info, serving


@pytest.fixture
def client(service: ScriptedService) -> Iterator[Client]:
    """A client of it, with a single attempt."""
    with Client(service.target, max_attempts=1) as connected:
        yield connected


def test_events_come_in_order_and_end_with_completed(client: Client) -> None:
    """`generate` tells the whole story, typed, first accepted and last completed."""
    events = list(client.generate("a circle", seed=0, num_images=2))
    assert isinstance(events[0], types.Accepted)
    assert isinstance(events[-1], types.Completed)
    assert events[0].plan.seed == 0
    received = [event.image for event in events if isinstance(event, types.ImageReceived)]
    assert [image.data for image in received] == [image.data for image in events[-1].images]
    assert [image.seed for image in received] == [0, 1]


def test_images_come_back_whole(client: Client) -> None:
    """`generate_images` returns all images, `generate_image` the only one."""
    assert [image.data for image in client.generate_images("a", num_images=3)] == [
        messages.picture(index=index) for index in range(3)
    ]
    image = client.generate_image("a", request_id="mine")
    assert (image.data, image.request_id) == (messages.picture(), "mine")


def test_a_large_image_passes_through_a_stock_channel(service: ScriptedService, client: Client) -> None:
    """A 16 MiB file arrives in chunks although no message may exceed gRPC's default of 4 MiB."""
    size = 16 * 2**20
    service.script = lambda request, _: messages.generation(request, size)
    assert client.generate_image("a").data == messages.picture(size)


def test_a_plan_runs_nothing(service: ScriptedService, client: Client) -> None:
    """`plan` asks for validation only and returns the plan with its estimate."""
    accepted = client.plan("a", num_images=2)
    assert (accepted.plan.num_images, accepted.estimated_duration) == (2, 2.5)
    assert [request.validate_only for request in service.requests] == [True]


def test_the_other_calls_are_answered(service: ScriptedService, client: Client) -> None:
    """Cancel, models and server info return the client's values."""
    assert client.cancel("known") is types.GenerationState.CANCELLED
    assert service.cancelled_ids == ["known"]
    (model,) = client.models()
    assert (model.name, model.defaults.refiner_mode, model.schedulers) == ("shapes", "ensemble", ("A", "B"))
    info = client.server_info()
    assert (info.state, info.packages, info.start_time) == ("serving", {"torch": "2.0"}, 1_700_000_000.5)
    assert info.memory_plan is not None
    assert info.memory_plan.components[0].bytes == 28


def test_health_follows_the_server(service: ScriptedService, client: Client) -> None:
    """Serving is healthy; not serving, an unknown service and no server are not."""
    assert client.healthy() is True
    service.health.set("imagegen.v1.ImageGen", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert client.healthy() is False
    with serving(ScriptedService()) as other, Client(other.target, max_attempts=1) as second:
        other.health.set("imagegen.v1.ImageGen", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        assert second.healthy() is False
    with Client(other.target, max_attempts=1) as third:
        assert third.healthy() is False


class Failing(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # its package has no types
    """Answers every check with a failure."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def Check(  # noqa: N802 (the contract's name)
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Fails."""
        context.abort(self._code, "scripted")
        raise AssertionError("abort returned")


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_a_check_that_fails_so_says_that_nobody_serves(code: grpc.StatusCode) -> None:
    """The service is not there, or does not answer in time; any other failure is an error."""
    answers: list[bool | None] = []
    for each in (code, grpc.StatusCode.PERMISSION_DENIED):
        server = grpc.server(futures.ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(Failing(each), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with Client(f"127.0.0.1:{port}", max_attempts=1) as client:
            try:
                answers.append(client.healthy())
            except errors.AccessDeniedError:
                answers.append(None)
        server.stop(None).wait()
    assert answers == [False, None]


def test_calls_carry_metadata_and_deadlines(service: ScriptedService) -> None:
    """The client's metadata accompanies a call; its timeout or the call's becomes the deadline."""
    with Client(service.target, metadata=[("authorization", "Bearer token")], timeout=100) as client:
        client.generate_image("a")
        client.generate_image("a", timeout=1000)
        client.generate_image("a", timeout=math.inf)
        list(client.generate("a", timeout=1000))
    assert {metadata["authorization"] for metadata in service.metadata} == {"Bearer token"}
    first, second, third, fourth = service.remaining
    assert first is not None
    assert second is not None
    assert fourth is not None
    assert 0 < first < 150 < min(second, fourth) < 1500  # the wire format rounds deadlines up
    assert third is None or third > 10**6  # grpcio spells "no deadline" as one in the far future


def test_a_function_gives_each_call_its_metadata(service: ScriptedService) -> None:
    """Metadata that is a function is asked for call by call, in the caller's own context: a trace's parent, say."""
    parent: ContextVar[str] = ContextVar("parent")
    with Client(service.target, metadata=lambda: [("traceparent", parent.get())]) as client:
        for each in ("first", "second"):
            parent.set(each)
            client.generate_image("a")
    assert [metadata["traceparent"] for metadata in service.metadata] == ["first", "second"]


REFUSALS: list[tuple[grpc.StatusCode, str, type[errors.ImageGenError]]] = [
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", errors.InvalidRequestError),
    (grpc.StatusCode.NOT_FOUND, "SCHEDULER_NOT_FOUND", errors.NotFoundError),
    (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_IN_USE", errors.AlreadyExistsError),
    (grpc.StatusCode.FAILED_PRECONDITION, "REFINER_NOT_LOADED", errors.PreconditionError),
    (grpc.StatusCode.UNAUTHENTICATED, "NO_KEY", errors.AuthenticationError),
    (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", errors.AccessDeniedError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", errors.QueueFullError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "GPU_OUT_OF_MEMORY", errors.OutOfMemoryError),
    (grpc.StatusCode.UNAVAILABLE, "DRAINING", errors.ServiceUnavailableError),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_CANNOT_BE_MET", errors.DeadlineExceededError),
    (grpc.StatusCode.CANCELLED, "CANCELLED", errors.GenerationCancelledError),
    (grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED_YET", errors.NotImplementedByServerError),
    (grpc.StatusCode.INTERNAL, "NUMERIC", errors.InternalError),
]


@pytest.mark.parametrize(("code", "reason", "expected"), REFUSALS, ids=[row[1] for row in REFUSALS])
def test_a_refusal_becomes_the_clients_error(
    service: ScriptedService,
    client: Client,
    code: grpc.StatusCode,
    reason: str,
    expected: type[errors.ImageGenError],
) -> None:
    """A status with details crosses the wire and comes out as one class, with everything in it."""

    def script(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        bad = error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field="width", description="odd")]
        )
        refuse(context, code, "scripted refusal", error_info(reason, {"key": "value"}), bad, retry_info(1500))
        yield messages.accepted(request)

    service.script = script
    with pytest.raises(errors.ImageGenError, match="scripted refusal") as caught:
        client.generate_image("a", request_id="mine")
    error = caught.value
    assert type(error) is expected
    assert (error.code, error.request_id, error.retry_after) == (code, "mine", 1.5)
    assert (error.details.reason, error.details.metadata) == (reason, {"key": "value"})
    assert [violation.field for violation in error.details.violations] == ["width"]


def test_a_failure_after_some_events_is_raised_in_their_place(service: ScriptedService, client: Client) -> None:
    """Events that came before a failure are still told."""

    def script(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        yield messages.accepted(request)
        refuse(context, grpc.StatusCode.INTERNAL, "non-finite", error_info("NUMERIC"))

    service.script = script
    events = client.generate("a")
    assert isinstance(next(events), types.Accepted)
    with pytest.raises(errors.InternalError, match="non-finite"):
        next(events)


def _without_end(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
    yield from list(messages.generation(request))[:-1]


def _bad_hash(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
    for response in messages.generation(request):
        if response.HasField("image_header"):
            response.image_header.sha256 = "0" * 64
        yield response


def _gap(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
    for response in messages.generation(request, 2 * messages.CHUNK):
        if not (response.HasField("image_chunk") and response.image_chunk.offset == 0):
            yield response


@pytest.mark.parametrize(
    ("script", "expected"),
    [(_without_end, errors.ProtocolError), (_bad_hash, errors.IntegrityError), (_gap, errors.IntegrityError)],
)
def test_an_answer_that_cannot_be_used_is_an_error(
    service: ScriptedService,
    client: Client,
    script: Callable[[pb.GenerateImageRequest, grpc.ServicerContext], Iterator[pb.GenerateImageResponse]],
    expected: type[errors.ImageGenError],
) -> None:
    """A truncated stream, a wrong hash and a gap raise, although the call itself ended well."""
    service.script = script
    with pytest.raises(expected):
        client.generate_image("a")
    assert service.ended.wait(WAIT)


def test_unknown_events_pass(service: ScriptedService, client: Client) -> None:
    """A newer server's events on the wire do not disturb this client."""

    def script(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        for response in messages.generation(request):
            yield messages.unknown_event(request)
            yield response

    service.script = script
    assert client.generate_image("a").data == messages.picture()


def test_closing_the_events_cancels_the_call(service: ScriptedService, client: Client) -> None:
    """The server learns at once that nobody listens any more."""
    service.script = endless = Endless()
    events = client.generate("a")
    next(events)
    assert not endless.ended.is_set()
    events.close()
    assert endless.ended.wait(WAIT)


def test_abandoning_the_events_cancels_the_call(service: ScriptedService, client: Client) -> None:
    """Leaving the loop is enough; nothing has to be closed by hand."""
    service.script = endless = Endless()
    for event in client.generate("a"):
        assert isinstance(event, types.Accepted)
        break
    assert endless.ended.wait(WAIT)


def test_nothing_is_sent_before_the_first_event_is_asked_for(service: ScriptedService, client: Client) -> None:
    """A generator that is never read costs the server nothing."""
    client.generate("a").close()
    client.server_info()
    assert service.requests == []


def test_the_deadline_ends_a_generation(service: ScriptedService, client: Client) -> None:
    """A server that takes too long is left, and learns of it."""
    service.script = endless = Endless()
    with pytest.raises(errors.DeadlineExceededError) as caught:
        client.generate_image("a", timeout=0.3, request_id="mine")
    assert caught.value.request_id == "mine"
    assert endless.ended.wait(WAIT)


def test_closing_the_client_ends_its_generations(service: ScriptedService) -> None:
    """A generation on a closed client ends as cancelled; further use is refused."""
    service.script = endless = Endless()
    client = Client(service.target)
    events = client.generate("a")
    next(events)
    client.close()
    client.close()
    with pytest.raises(errors.GenerationCancelledError):
        next(events)
    assert endless.ended.wait(WAIT)
    for use in (client.models, client.healthy, lambda: list(client.generate("a"))):
        with pytest.raises(RuntimeError, match="the client is closed"):
            use()


def test_many_threads_share_a_client(client: Client) -> None:
    """Generations of several threads on one client do not mix."""
    results: dict[str, bytes] = {}

    def work(name: str) -> None:
        image = client.generate_image("a", request_id=name)
        results[image.request_id] = image.data

    threads = [threading.Thread(target=work, args=(f"g-{index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert results == {f"g-{index}": messages.picture() for index in range(6)}


def test_no_server_is_unreachable() -> None:
    """Where nobody listens, every call says so in the client's own words."""
    with serving(ScriptedService()) as gone:
        target = gone.target
    with Client(target, max_attempts=1) as client:
        for use in (client.models, client.server_info, lambda: client.generate_image("a")):
            with pytest.raises(errors.UnreachableError):
                use()


def test_malformed_details_do_not_hide_the_error(service: ScriptedService, client: Client) -> None:
    """Bytes that are no status in the details trailer leave code and message readable."""

    def script(_: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff" + details()),))
        context.abort(grpc.StatusCode.INTERNAL, "broken")
        yield pb.GenerateImageResponse()

    service.script = script
    with pytest.raises(errors.InternalError, match="broken") as caught:
        client.generate_image("a")
    assert caught.value.details == errors.ErrorDetails()
